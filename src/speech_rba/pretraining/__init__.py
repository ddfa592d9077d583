"""Training of the student's parts before alignment: the ASR adapter and the attribute head."""
