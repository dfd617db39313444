"""The icon of the pages in the colors of the light and the dark theme."""

_CAR = ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" width="24" height="24" fill="none" '
        'stroke="{color}" stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round">'
        '<path d="M3 16v-3.5l2-1 1.6-4A2 2 0 0 1 8.5 6h7a2 2 0 0 1 1.9 1.5l1.6 4 2 1V16"/><path d="M5 11.5h14"/>'
        '<path d="M3 16h18"/><circle cx="7.5" cy="17" r="1.8"/><circle cx="16.5" cy="17" r="1.8"/></svg>')
ICONS = {"icon.svg": _CAR.format(color="#1b1f24"), "icon-dark.svg": _CAR.format(color="#e6edf3")}
