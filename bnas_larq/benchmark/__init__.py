"""How long a step of search and training takes, and how long it would have to take at least.

`search_step` and `train_step` measure one configuration in this process; `bnas-larq benchmark`
prints what they return. Start a new process for each: peak memory and the time to the first step
are true for the first one only.
"""
