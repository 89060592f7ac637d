"""HTTP from addresses that users give: only to public addresses, within bounds.

`client.GuardedClient` requests a file, with its redirects; the body of its answer goes to a
consumer at its own pace, such as `blocks.BodyBlocks`. Nothing is imported here, since a node at
rest does without the client.
"""
