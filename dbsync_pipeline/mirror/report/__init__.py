"""A file with every row that differs, for the person who has to decide.

differences  the rows, streamed while a plan compares them
writers      what is written of them: HTML, CSV
statements   the statements that would make the target equal
file         one report: its file, its targets
"""
