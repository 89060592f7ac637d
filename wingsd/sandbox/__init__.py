"""Processes that parse hostile bytes: how they are started, limited and confined.

The daemon's side is `launch`: nothing is inherited but the input and the output. In the process
itself `confinement` takes away what parsing does not need, by Landlock and seccomp(2) where
the kernel has them. None of it needs privileges or namespaces.
"""
