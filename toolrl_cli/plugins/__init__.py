"""The reward engine in other frameworks: one thin file each, called as that framework calls a reward."""
