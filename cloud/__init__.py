"""A host on AWS: its first boot, its part in the life of its auto-scaling group, and how many workers there are to be.

Nothing here is needed on machines of your own. docs/terraform.md says who starts what.
"""
