"""The audit as a program: the backend that it found, the same one on memsafe_transcribe, and what each does."""
