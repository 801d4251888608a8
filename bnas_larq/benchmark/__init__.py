"""How long a step of search or training takes, against the floor that the machine allows.

`search_step` and `train_step` measure one configuration in this process. Start a new process for
each: peak memory and the time to the first step are right only for the first one.
"""
