"""The checks, one file each: what is measured, what is compared with which threshold.

A check is a generator of findings, given a `Case`. It raises `Skip` where it cannot be run.
"""
