"""Why is it polysemantic? Signatures of a site, each with a null, and what they say together."""
