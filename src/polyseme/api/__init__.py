"""What a researcher does in a line or two: thin functions over the rooms below, each with something to look at.

`import polyseme` finds every one of them: `polyseme.train`, `polyseme.ablate`, …
"""
