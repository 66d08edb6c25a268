"""The ways in which the tests make a tracking server fail."""

FAULTS = {
    "down at the start": lambda number: "down" if number < 8 else None,
    "down in the middle": lambda number: "down" if 6 < number < 14 else None,
    "down at the end": lambda number: "down" if number > 9 else None,
    "always down": "down",
    "500": "500",
    "503 now and then": lambda number: "503" if number % 3 == 0 else None,
    "401": "401",
    "hang": "hang",
    "slow": "slow",
    "reset": lambda number: "down" if number % 4 == 0 else None,
    "half answer": lambda number: "half answer" if number % 3 == 1 else None,
    "lost answer": lambda number: "lost answer" if number % 2 == 0 else None,
    "garbage": "garbage",
    "empty": "empty",
}
