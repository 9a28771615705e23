"""Whether a changed part helped: a base run and its variants over several seeds, compared with intervals."""
