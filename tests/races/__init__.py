"""A server's files are used while another process swaps links, directories and files there.

`attacker` is that process, `scene` has the directories around the server's that nothing may touch,
`actions` and `trees` what wingsd does with files, and `naive` the same by paths, which must be
caught.
"""
