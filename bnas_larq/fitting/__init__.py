"""What a search and a training have in common: resumable `fit`, metrics log, progress, guards."""
