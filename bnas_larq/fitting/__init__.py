"""Shared by search and training: resumable `fit`, metrics log, progress, guards."""
