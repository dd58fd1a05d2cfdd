"""One sync of one target.

task        what the caller asks for
opening     the two connections, and what is read once
comparing   compare a table and stage what differs
reviewing   the final plan and the guards
numbering   the number of the publish
publishing  write, prove, record, commit
session     the order of these steps
"""
