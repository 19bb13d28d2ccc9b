"""What benchmarks share: cases, scores, records, tables, pictures and plots."""
