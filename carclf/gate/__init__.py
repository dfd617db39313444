"""Rules that decide whether a candidate replaces the champion."""
