"""Project quotas on real ext4 and XFS: `checks.py` runs in a small virtual machine.

The kernel of the machine that runs the tests rarely has project quotas on its file systems.
"""
