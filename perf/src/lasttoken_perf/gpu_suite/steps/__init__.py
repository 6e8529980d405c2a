"""The steps of the suite, each a module with ``run(settings) -> StepReport``.

A step imports what it needs when it runs, in a process of its own, so that what one lacks stops no
other.
"""
