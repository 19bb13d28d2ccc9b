"""The words of the toy world, and the captions and instructions made of them.

caption     := objects " " background [", " style]
objects     := object (" and " object)*
object      := article [texture] colour shape        "a striped blue star"
background  := a fixed phrase                        "on grass", "in front of a photo of a cat"
style       := a fixed phrase                        "at sunset"

The main object is named first. "plain" texture and "none" style are unspoken.
"""

from __future__ import annotations

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.12, 0.12),
    "green": (0.06, 0.52, 0.18),
    "blue": (0.10, 0.22, 0.82),
    "yellow": (0.98, 0.88, 0.12),
    "purple": (0.52, 0.16, 0.62),
    "orange": (0.98, 0.52, 0.06),
    "white": (0.97, 0.97, 0.97),
    "black": (0.07, 0.07, 0.07),
}
SHAPES = ("ball", "square", "triangle", "star", "heart", "ring", "fish", "house")
TEXTURES = ("plain", "striped", "dotted", "checkered")

BACKGROUNDS: dict[str, str] = {
    "gray": "on a gray background",
    "grass": "on grass",
    "sand": "on sand",
    "sky": "in the sky",
    "night": "in a night sky",
    "sea": "on the sea",
    "pink": "in front of a pink wall",
    "brick": "in front of a brick wall",
}
PHOTOS: dict[str, str] = {  # name -> (file of scikit-image, in backgrounds.py); phrase here
    "cat": "in front of a photo of a cat",
    "coffee": "in front of a photo of coffee",
    "astronaut": "in front of a photo of an astronaut",
    "rocket": "in front of a photo of a rocket",
    "motorcycle": "in front of a photo of a motorcycle",
    "galaxies": "in front of a photo of galaxies",
}
ALL_BACKGROUNDS: dict[str, str] = {**BACKGROUNDS, **PHOTOS}
STYLES: dict[str, str] = {
    "none": "",
    "bw": "in black and white",
    "sunset": "at sunset",
    "moonlight": "by moonlight",
    "pastel": "in pastel colors",
}
#: (colour, background) pairs whose object would vanish
INVISIBLE = {("black", "night"), ("black", "galaxies"), ("green", "grass"), ("yellow", "sand")}

#: words of the instructions and of a few likely prompts, so that they need no byte fallback
EXTRA_WORDS = (
    "make turn into replace with background the it object to be keep change add remove clip video frame picture "
    "image of photo two three left right top bottom small big moving bright dark plain night day colored color "
    "colors style scene same and not without over under behind shape texture this that is"
).split()


def article(word: str) -> str:
    """"a" or "an" before `word`."""
    return "an" if word[0] in "aeiou" else "a"


def object_phrase(colour: str, shape: str, texture: str = "plain") -> str:
    """"a striped blue star"; plain texture is unspoken."""
    words = [colour, shape] if texture == "plain" else [texture, colour, shape]
    return " ".join([article(words[0]), *words])


def caption(objects: list[tuple[str, str, str]], background: str, style: str = "none") -> str:
    """Caption of (colour, shape, texture) triples on a background, main object first."""
    text = " and ".join(object_phrase(*o) for o in objects) + " " + ALL_BACKGROUNDS[background]
    return f"{text}, {STYLES[style]}" if STYLES[style] else text


def background_noun(background: str) -> str:
    """The background's phrase without its preposition: "grass", "a pink wall"."""
    phrase = ALL_BACKGROUNDS[background]
    for preposition in ("in front of ", "on ", "in "):
        if phrase.startswith(preposition):
            return phrase[len(preposition):]
    return phrase


def vocabulary() -> list[str]:
    """Every word that captions and instructions use, in a fixed order, without repeats."""
    phrases = [*COLOURS, *SHAPES, *TEXTURES, *ALL_BACKGROUNDS.values(), *STYLES.values(), "a", "an", *EXTRA_WORDS]
    return list(dict.fromkeys(word for phrase in phrases for word in phrase.split()))
