"""One recipe per trained model."""
