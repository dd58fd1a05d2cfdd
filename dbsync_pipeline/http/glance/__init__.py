"""The page of `dbsync serve` that a person glances at: is everything well?

    facts     what is read: Dagster's records at each view, the ledgers rarely
    view      what that means: a verdict for each database and one for all, as values
    plot      the sizes of the last syncs, as coordinates
    texts     what the page says, in English and in Spanish
    sessions  who is signed in, and how often a wrong token may be tried
    routes    the addresses

The page is HTML and SVG made here. It loads nothing else, runs no script and changes nothing.
"""
