"""Decide whether a candidate replaces the champion."""
