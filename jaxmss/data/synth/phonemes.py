"""Speech sounds: the formants of vowels, and what comes before a vowel.

Vowels: G. E. Peterson and H. L. Barney, "Control methods used in a study of the vowels" (1952), averages of men.
"""

from __future__ import annotations

from dataclasses import dataclass

NEUTRAL = (500, 1500, 2500)  # formants in Hz of a tube of a man's length

VOWELS = {  # first three formants in Hz
    "heed": (270, 2290, 3010),
    "hid": (390, 1990, 2550),
    "head": (530, 1840, 2480),
    "had": (660, 1720, 2410),
    "hod": (730, 1090, 2440),
    "hawed": (570, 840, 2410),
    "hood": (440, 1020, 2240),
    "who'd": (300, 870, 2240),
    "hud": (640, 1190, 2390),
}
DIPHTHONGS = (("hod", "heed"), ("hod", "who'd"), ("hawed", "heed"), ("head", "heed"), ("hud", "who'd"))


@dataclass(frozen=True)
class Consonant:
    """What comes before a vowel.

    Attributes:
      closure: seconds of silence or murmur before the noise.
      noise: seconds of noise.
      middle: of the noise's spectrum, in Hz.
      width: of it, in octaves.
      level: of the noise.
      murmur: level of the voice during all of it.
      formants: of the murmur, in Hz.
    """

    closure: float = 0.0
    noise: float = 0.0
    middle: float = 1000.0
    width: float = 1.0
    level: float = 0.0
    murmur: float = 0.0
    formants: tuple[int, int, int] = NEUTRAL


CONSONANTS = {
    "": Consonant(murmur=0.8),
    "h": Consonant(0.0, 0.06, 1500.0, 1.6, 0.25),
    "s": Consonant(0.0, 0.11, 7500.0, 0.45, 0.8),
    "sh": Consonant(0.0, 0.11, 3600.0, 0.5, 0.8),
    "f": Consonant(0.0, 0.09, 7000.0, 1.4, 0.2),
    "t": Consonant(0.05, 0.035, 5000.0, 0.7, 1.0),
    "k": Consonant(0.05, 0.04, 2200.0, 0.5, 0.9),
    "p": Consonant(0.05, 0.025, 1000.0, 1.0, 0.7),
    "d": Consonant(0.04, 0.015, 4000.0, 0.8, 0.6, 0.15, (200, 1700, 2600)),
    "b": Consonant(0.04, 0.01, 900.0, 1.0, 0.5, 0.15, (200, 900, 2300)),
    "v": Consonant(0.0, 0.07, 6000.0, 1.4, 0.1, 0.35, (250, 1100, 2300)),
    "z": Consonant(0.0, 0.08, 7500.0, 0.5, 0.4, 0.3, (250, 1600, 2600)),
    "m": Consonant(0.07, murmur=0.4, formants=(250, 1000, 2200)),
    "n": Consonant(0.07, murmur=0.4, formants=(250, 1600, 2500)),
    "l": Consonant(0.06, murmur=0.6, formants=(350, 1100, 2800)),
    "r": Consonant(0.06, murmur=0.6, formants=(400, 1200, 1650)),
    "w": Consonant(0.07, murmur=0.6, formants=(300, 650, 2200)),
    "y": Consonant(0.06, murmur=0.6, formants=(270, 2200, 3000)),
}
