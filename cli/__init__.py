"""
The `couchestor` command: a client of the three services, and of nothing else.

It asks over gRPC what grpcurl could ask, and lays the answer out for a person. A module in `commands` is a command;
`render` has the words and numbers that they share; `session` is all that a command needs from outside, so that a test
can hand in a channel, a clock and a screen.
"""
