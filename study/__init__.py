"""Blind comparisons of edited videos by people: a page to answer on, and what its answers say."""
