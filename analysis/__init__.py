"""What do the runs mean? From run records to tables, figures and a report.

    records -> frames -> tables -> figures -> report

    >>> from analysis.records import load
    >>> from analysis.ladder import ladders
    >>> for ladder in ladders(load("runs")):
    ...     print(ladder.table)

Nothing here imports torch or `experiments`: a record is plain files, so a report opens in a second on a laptop.
"""
