"""Export to Larq Compute Engine: conversion, a look into the file, comparison with Keras."""
