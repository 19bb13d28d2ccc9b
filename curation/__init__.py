"""A set of clips to compare video editing on: chosen, described and given edits (DAPE, section 4 and appendix A.1)."""
