"""Draws the sample dataset: 500 cartoon cats and dogs in three splits, and one more to try.

    python tests/measure/draw_dataset.py [TARGET]      # the folder to fill, by default dataset/

Same seed, same pixels: each drawing has its own generator, seeded with its path, whatever the order
of drawing. Cats and dogs share coats, patterns, eye colours, poses and scenery; what tells them
apart is the anatomy: ears, muzzle, nose, pupils, whiskers, tongue and tail. A drawing is a list of
flat shapes, painted one over the other. An animal is drawn around its head, which is about 1 in
radius with its centre at (0, 0), x to the right and y down; `placed` then brings it to its place in
the picture, in pixels.
"""

import argparse
import math
import random
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

# === What is drawn ================================================================================

COUNTS = {"train": 150, "validation": 50, "test": 50}  # drawings per class
LABELS = ("cat", "dog")
SAMPLE = ("test/1.jpg", "dog")
COMMENT = b"drawing by CatDogClassifier"
FINER = (
    3  # drawn this many times larger, then reduced: smooth outlines, whatever the version of Pillow
)
COATS = (  # fur, marks, chest and muzzle
    ((62, 58, 66), (34, 31, 38), (118, 112, 120)),  # black
    ((244, 242, 238), (186, 180, 176), (255, 255, 255)),  # white
    ((150, 156, 166), (96, 101, 112), (214, 217, 222)),  # grey
    ((232, 150, 74), (184, 98, 40), (252, 226, 190)),  # ginger
    ((140, 94, 62), (90, 56, 36), (212, 172, 134)),  # brown
    ((238, 212, 170), (196, 156, 108), (252, 242, 222)),  # cream
    ((58, 56, 66), (34, 31, 38), (248, 246, 244)),  # tuxedo
)
PATTERNS = ("plain", "tabby", "patches", "spots")
EYES = ((226, 172, 40), (112, 176, 72), (92, 160, 214), (178, 112, 52))
SCENERY = (
    (206, 226, 242),
    (214, 234, 208),
    (248, 238, 206),
    (226, 218, 240),
    (236, 230, 222),
    (200, 226, 224),
)
BRIGHT = ((214, 62, 62), (52, 112, 196), (240, 186, 48), (84, 160, 92), (150, 92, 176))
INK, WHITE, PINK = (38, 32, 36), (255, 255, 255), (244, 132, 144)
LIGHTS = ((255, 200, 120), (90, 120, 200))  # of an evening, of a dull day
MOUTH, TONGUE, SHADOW = (140, 46, 56), (238, 120, 130), (150, 142, 140)
SKY, PANE, FLOOR = (190, 222, 246), (176, 214, 242), (222, 196, 164)


class Look(NamedTuple):
    """What one animal looks like, whatever it does. Colours are (red, green, blue), 0..255."""

    cat: bool
    fur: tuple
    dark: tuple
    light: tuple
    eye: tuple
    pattern: str
    open_mouth: bool
    socks: bool
    collar: tuple | None


class Shape(NamedTuple):
    """A filled outline; its marks, (points, colour), cut off at it; how far its shadow reaches."""

    points: list
    fill: tuple
    edge: tuple | None = None
    marks: tuple = ()
    shade: float = 0.0


def new_look(label, rng):
    fur, dark, light = rng.choice(COATS)
    collar = rng.choice(BRIGHT) if rng.random() < 0.4 else None
    eye_colour, coat, often = (
        rng.choice(EYES),
        rng.choice(PATTERNS),
        0.3 if label == "cat" else 0.8,
    )  # dogs pant
    return Look(
        label == "cat",
        fur,
        dark,
        light,
        eye_colour,
        coat,
        rng.random() < often,
        rng.random() < 0.4,
        collar,
    )


# === Outlines and colours =========================================================================


def mix(one, other, share):
    return tuple(round(a + (b - a) * share) for a, b in zip(one, other, strict=True))


def oval(x, y, rx, ry):
    return [
        (x + rx * math.cos(k * math.pi / 24), y + ry * math.sin(k * math.pi / 24))
        for k in range(48)
    ]


def box(x0, y0, x1, y1):
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def both(points):
    """The outline with these points as its right half, top to bottom, and their mirror image."""
    return points + [(-x, y) for x, y in reversed(points)]


def curve(points, closed=True, steps=8):
    """A smooth line through the points (Catmull-Rom spline)."""
    around = [points[-1], *points, *points[:2]] if closed else [points[0], *points, points[-1]]
    line = []
    for a, b, c, d in zip(around, around[1:], around[2:], around[3:], strict=False):
        for t in (k / steps for k in range(steps)):
            line.append(
                tuple(
                    q
                    + t * (r - p + t * (2 * p - 5 * q + 4 * r - s + t * (3 * (q - r) + s - p))) / 2
                    for p, q, r, s in zip(a, b, c, d, strict=True)
                )
            )
    return line if closed else [*line, points[-1]]


def band(path, thick, thin):
    """The outline of a stroke along a smooth path: `thick` at first, `thin` and round at last."""
    spine = curve(path, closed=False)
    left, right = [], []
    for i, (x, y) in enumerate(spine):
        (x0, y0), (x1, y1) = spine[max(i - 1, 0)], spine[min(i + 1, len(spine) - 1)]
        angle, r = math.atan2(y1 - y0, x1 - x0), (thick + (thin - thick) * i / (len(spine) - 1)) / 2
        left.append((x + r * math.sin(angle), y - r * math.cos(angle)))
        right.append((x - r * math.sin(angle), y + r * math.cos(angle)))
    cap = [
        (x + r * math.sin(angle + k * math.pi / 8), y - r * math.cos(angle + k * math.pi / 8))
        for k in range(1, 8)
    ]
    return left + cap + right[::-1]


def moved(shapes, dx=0.0, dy=0.0, sx=1.0, sy=1.0, turn=0.0):
    """The shapes scaled, then turned (radians), then shifted; a negative `sx` mirrors them."""
    c, s = math.cos(turn), math.sin(turn)

    def go(points):
        return [(dx + c * sx * x - s * sy * y, dy + s * sx * x + c * sy * y) for x, y in points]

    return [
        shape._replace(
            points=go(shape.points),
            marks=tuple((go(p), ink) for p, ink in shape.marks),
            shade=shape.shade * abs(sy),
        )
        for shape in shapes
    ]


def extent(points):
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


# === Parts of an animal ===========================================================================


def part(points, look, marks=(), fill=None):
    """A part of the body, with the look's edge and a soft shadow."""
    fill = fill or look.fur
    return Shape(points, fill, mix(fill, INK, 0.6), tuple(marks), 0.13)


def fur_marks(points, look, rng):
    """The coat's pattern on an outline: stripes, two large patches or a dozen spots."""
    x0, y0, x1, y1 = extent(points)
    w, h = x1 - x0, y1 - y0
    places = [x0 + w * k / 6 for k in range(1, 6)]
    stripes = [band([(x, y0 - 0.1), (x + 0.05, y0 + 0.5 * h)], 0.22, 0.06) for x in places]
    patches = [
        oval(x0 + w * (k + rng.random()) / 2, y0 + h * rng.uniform(0.1, 0.6), 0.2 * w, 0.26 * h)
        for k in (0, 1)
    ]
    spots = [oval(rng.uniform(x0, x1), rng.uniform(y0, y1), 0.13, 0.11) for _ in range(12)]
    marks = {"plain": [], "tabby": stripes, "patches": patches, "spots": spots}[look.pattern]
    return [(outline, look.dark) for outline in marks]


def face_marks(look, rng):
    """The coat's pattern on forehead and eye, and the blaze of a dark coat with a white muzzle."""
    stripes = [band([(x, -1.2), (0.8 * x, -0.5)], 0.2, 0.08) for x in (-0.34, 0, 0.34)]
    patch = oval(rng.choice((-0.5, 0.5)), -0.35, 0.46, 0.5)
    spots = [oval(rng.uniform(-0.8, 0.8), rng.uniform(-0.8, -0.45), 0.1, 0.09) for _ in range(4)]
    marks = {"plain": [], "tabby": stripes, "patches": [patch], "spots": spots}[look.pattern]
    blaze = (
        [(band([(0, 0.5), (0, -0.8)], 0.5, 0.06), look.light)]
        if look.light[0] - look.fur[0] > 150
        else []
    )
    return [(outline, look.dark) for outline in marks] + blaze


def eye(look, x, y):
    """A cat's eye is large and almond-shaped with a slit, a dog's round with a round pupil."""
    if look.cat:
        layers = [((0.27, 0.24), INK), ((0.23, 0.205), look.eye), ((0.065, 0.19), INK)]
    else:
        layers = [((0.21, 0.21), WHITE), ((0.18, 0.18), look.eye), ((0.12, 0.12), INK)]
    glint = Shape(oval(x + 0.06, y - 0.08, 0.05, 0.05), WHITE)
    return [*(Shape(oval(x, y, *radii), ink) for radii, ink in layers), glint]


def line(*points, ink=INK, width=0.06):
    return Shape(band(list(points), width, width), ink)


def whiskers(look, x, y):
    ink = WHITE if sum(look.fur) < 480 else (96, 90, 92)
    return [
        Shape(band([(x + s * 0.25, y + 0.08 * k), (x + s * 1.2, y + 0.26 * k)], 0.05, 0.02), ink)
        for s in (-1, 1)
        for k in (-1, 0, 1)
    ]


def cat_head(look, rng, turn):
    """A cat from the front, `turn` -1..1 looking aside: round, pointed ears, a small muzzle."""
    x, tip = 0.18 * turn, rng.uniform(1.45, 1.65)
    ears = [
        [(s * 1.0, -0.1), (s * 0.9, -tip), (s * 0.82, -tip), (s * 0.05, -0.72)] for s in (-1, 1)
    ]
    inner = [[(s * 0.9, -0.4), (s * 0.84, -tip + 0.2), (s * 0.24, -0.75)] for s in (-1, 1)]
    skull = curve(both([(0.35, -0.86), (0.8, -0.55), (1.05, 0.1), (0.85, 0.6), (0.3, 0.86)]))
    shapes = [part(outline, look) for outline in ears] + [Shape(outline, PINK) for outline in inner]
    shapes += [part(skull, look, face_marks(look, rng))]
    shapes += eye(look, x - 0.44, -0.08) + eye(look, x + 0.44, -0.08)
    if look.open_mouth:
        shapes += [Shape(oval(x, 0.6, 0.16, 0.16), MOUTH), Shape(oval(x, 0.67, 0.1, 0.08), PINK)]
    shapes += [Shape(oval(x + s * 0.17, 0.43, 0.22, 0.17), look.light) for s in (-1, 1)]
    smile = line((x - 0.3, 0.5), (x - 0.14, 0.57), (x, 0.45), (x + 0.14, 0.57), (x + 0.3, 0.5))
    nose = Shape([(x - 0.13, 0.24), (x + 0.13, 0.24), (x, 0.38)], (214, 106, 116), INK)
    return [*shapes, line((x, 0.3), (x, 0.45)), smile, nose, *whiskers(look, x, 0.42)]


def dog_ear(side, low):
    """An ear from the front: hanging to `low` or, if None, half pricked, its tip folded."""
    if low is None:
        ear = [
            (0.3, -0.8),
            (0.55, -1.15),
            (0.9, -1.2),
            (1.25, -0.8),
            (1.3, -0.35),
            (1.0, -0.5),
            (0.75, -0.3),
        ]
    else:
        tip = [(1.3, low - 0.3), (1.08, low), (0.84, low - 0.25)]
        ear = [(0.4, -0.88), (0.8, -0.86), (1.2, -0.35), *tip, (0.72, -0.3)]
    return curve([(side * x, y) for x, y in ear])


def dog_head(look, rng, turn):
    """A dog from the front, `turn` -1..1 looking aside: long, a large muzzle and nose."""
    x, low = 0.2 * turn, rng.uniform(0.4, 0.75) if rng.random() < 0.88 else None
    skull = curve(
        both([(0.35, -0.98), (0.78, -0.7), (0.88, -0.1), (0.72, 0.5), (0.45, 1.0), (0.15, 1.14)])
    )
    shapes = [part(skull, look, face_marks(look, rng))]
    shapes += [
        part(dog_ear(side, low), look, fill=mix(look.dark, look.fur, 0.25)) for side in (-1, 1)
    ]
    shapes += eye(look, x - 0.37, -0.2) + eye(look, x + 0.37, -0.2)
    if look.open_mouth:
        tongue = [(x + a, y) for a, y in curve(both([(0.17, 0.8), (0.19, 1.2), (0.1, 1.4)]))]
        shapes += [Shape(oval(x, 0.9, 0.3, 0.22), MOUTH), part(tongue, look, fill=TONGUE)]
    shapes += [Shape(oval(x, 0.5, 0.58, 0.5), look.light), line((x, 0.4), (x, 0.72))]
    smile = line((x - 0.38, 0.68), (x - 0.18, 0.82), (x, 0.72), (x + 0.18, 0.82), (x + 0.38, 0.68))
    nose = [
        Shape(oval(x, 0.27, 0.34, 0.25), INK),
        Shape(oval(x - 0.09, 0.17, 0.1, 0.06), (150, 146, 150)),
    ]
    return [*shapes, smile, *nose]


def head(look, rng, turn):
    """A head of its own proportions, looking aside by `turn`: -1..1, left to right."""
    shapes = (cat_head if look.cat else dog_head)(look, rng, turn)
    return moved(shapes, sx=rng.uniform(0.94, 1.06), sy=rng.uniform(0.94, 1.06))


def paw(look, x, y, rx=0.33, ry=0.22):
    toes = [line((x + k * rx, y), (x + k * rx, y + 0.8 * ry), width=0.04) for k in (-0.33, 0.33)]
    return [part(oval(x, y, rx, ry), look, fill=look.light if look.socks else look.fur), *toes]


def leg(look, *path, far=False):
    """A leg from the hip down; one on the far side of the body is in its shade."""
    if far:
        look = look._replace(fur=mix(look.fur, INK, 0.25), light=mix(look.light, INK, 0.25))
    return [part(band(path, 0.62, 0.46), look), *paw(look, path[-1][0] + 0.1, path[-1][1] + 0.08)]


def tail(look, *path):
    """A cat's tail is long and thin; a dog's is thick and ends at the path's third point."""
    return [part(band(path, 0.3, 0.24) if look.cat else band(path[:3], 0.55, 0.2), look)]


def collar(look, *path):
    if not look.collar:
        return []
    x, y = path[1]
    tag = oval(x, y + 0.16, 0.13, 0.13)
    return [
        part(band(path, 0.22, 0.22), look, fill=look.collar),
        part(tag, look, fill=(250, 214, 90)),
    ]


# === Poses: each returns its shapes and how many of the last of them must be inside the picture ===


def portrait(look, rng):
    """Head and shoulders; the chest runs on below the picture."""
    face = head(look, rng, rng.uniform(-1, 1))
    bust = curve(
        [
            (-0.55, 0.3),
            (-1.0, 1.5),
            (-1.4, 4),
            (-1.5, 12),
            (1.5, 12),
            (1.4, 4),
            (1.0, 1.5),
            (0.55, 0.3),
        ]
    )
    marks = [*fur_marks(box(-1.4, 0.8, 1.4, 4), look, rng), (oval(0, 2, 0.6, 1.1), look.light)]
    return [
        part(bust, look, marks),
        *collar(look, (-0.8, 1.05), (0, 1.34), (0.8, 1.05)),
        *face,
    ], len(face)


def peeking(look, rng):
    """Head and paws over the edge of a box, which runs on below the picture."""
    face = (
        head(look, rng, rng.uniform(-1, 1))
        + paw(look, -1.05, 0.92, 0.36, 0.3)
        + paw(look, 1.05, 0.92, 0.36, 0.3)
    )
    ink = rng.choice(SCENERY)
    edge = (box(-12, 0.86, 12, 1.06), mix(ink, WHITE, 0.3))
    return [Shape(box(-12, 0.86, 12, 12), mix(ink, INK, 0.2), INK, (edge,)), *face], len(face)


def sitting(look, rng):
    """Sitting, seen from the front, the tail out to the right."""
    body = curve(both([(0.5, 0.3), (0.85, 1.3), (1.08, 2.3), (0.6, 2.75)]))
    shapes = tail(look, (0.6, 2.5), (1.5, 2.45), (1.9, 1.8), (1.55, 1.2), (1.85, 0.6))
    shapes += [part(oval(s * 0.95, 2.25, 0.5, 0.55), look) for s in (-1, 1)]
    shapes += paw(look, -1.1, 2.72) + paw(look, 1.1, 2.72)
    shapes += [
        part(body, look, [*fur_marks(body, look, rng), (oval(0, 1.3, 0.5, 0.75), look.light)])
    ]
    shapes += leg(look, (-0.38, 1.7), (-0.45, 2.65)) + leg(look, (0.38, 1.7), (0.3, 2.65))
    shapes += collar(look, (-0.7, 1.0), (0, 1.3), (0.7, 1.0))
    shapes += moved(head(look, rng, rng.uniform(-1, 1)), 0, -0.35, 1.35, 1.35)
    return shapes, len(shapes)


def walking(look, rng):
    """Standing or walking to the right, seen from the side."""
    stride, deep = rng.uniform(0, 0.4), 0.8 if look.cat else 0.95
    back = [(-1.75, 0.1), (-1.2, -0.38), (0, -0.3), (1.1, -0.5), (1.55, 0.2)]
    body = curve([*back, (1.2, deep), (0, 0.72), (-1.3, 0.8)])
    shapes = tail(look, (-1.5, 0.2), (-2.05, -0.2), (-2.15, -0.85), (-1.85, -1.4), (-2.25, -1.95))
    shapes += leg(look, (-1.0, 0.4), (-1.0 + stride, 1.6), far=True)
    shapes += leg(look, (1.1, 0.4), (0.9 + stride, 1.6), far=True)
    shapes += [part(body, look, fur_marks(body, look, rng))]
    shapes += leg(look, (-1.3, 0.4), (-1.35 - stride, 1.7)) + leg(
        look, (0.8, 0.5), (0.75 - stride, 1.7)
    )
    shapes += moved(head(look, rng, rng.uniform(0, 1.2)), 1.5, -1.05, 1.35, 1.35)
    return shapes, len(shapes)


def lying(look, rng):
    """Lying, the head to the right, the tail round the body of a cat and behind that of a dog."""
    back = [(-2.2, 0.7), (-1.7, -0.1), (-0.6, -0.3), (0.6, 0), (1.2, 0.7)]
    body = curve([*back, (0.9, 1.25), (-0.6, 1.35), (-1.9, 1.25)])
    curled = tail(look, (-2.0, 0.8), (-2.15, 1.2), (-1.4, 1.42), (-0.5, 1.32), (0.1, 1.42))
    stretched = tail(look, (-1.8, 0.7), (-2.5, 0.5), (-2.8, -0.1))
    shapes = [] if look.cat else stretched
    shapes += leg(look, (0.4, 1.0), (1.75, 1.02), far=True) + [
        part(body, look, fur_marks(body, look, rng))
    ]
    shapes += [part(oval(-1.25, 0.75, 0.72, 0.6), look)] + paw(look, -0.7, 1.25, 0.4)
    shapes += leg(look, (0.2, 1.1), (1.4, 1.18)) + (curled if look.cat else [])
    shapes += moved(head(look, rng, rng.uniform(-0.4, 1.2)), 0.85, -0.5, 1.35, 1.35)
    return shapes, len(shapes)


POSES = (portrait, portrait, peeking, sitting, walking, lying)

# === Scenery, in pixels of a picture w by h =======================================================


def gradient(rng, w, h):
    above, below = rng.sample(SCENERY, 2)
    return [Shape(box(0, h * k / 40, w, h), mix(above, below, k / 39)) for k in range(40)]


def plain(rng, w, h):
    return [Shape(box(0, 0, w, h), rng.choice(SCENERY))]


def pattern(rng, w, h):
    """Dots or slanting stripes."""
    ink, step = rng.choice(SCENERY), rng.uniform(0.16, 0.26) * max(w, h)
    if rng.random() < 0.5:
        marks = [
            oval((i + j % 2 / 2) * step, j * step, step / 6, step / 6)
            for i in range(8)
            for j in range(8)
        ]
    else:
        marks = [
            [(x, 0), (x + step / 2, 0), (x - h + step / 2, h), (x - h, h)]
            for x in (step * k for k in range(16))
        ]
    return [
        Shape(box(0, 0, w, h), ink),
        *(Shape(points, mix(ink, WHITE, 0.45)) for points in marks),
    ]


def meadow(rng, w, h):
    """Sky with a cloud, grass with a few blades."""
    grass, y = mix((150, 204, 124), (188, 212, 128), rng.random()), rng.uniform(0.5, 0.7) * h
    shapes = [Shape(box(0, y * k / 20, w, h), mix(SKY, WHITE, k / 30)) for k in range(20)]
    x, r = rng.uniform(0, w), 0.06 * w
    shapes += [
        Shape(oval(x + k * r, 0.15 * h, 1.3 * r, r * (1 - abs(k) / 3)), WHITE) for k in (-1, 0, 1)
    ]
    shapes += [Shape(box(0, y, w, h), grass)]
    blades = [(rng.uniform(0, w), rng.uniform(y, h)) for _ in range(14)]
    return shapes + [
        Shape([(a, b), (a + 3, b - 0.05 * h), (a + 0.02 * w, b)], mix(grass, INK, 0.2))
        for a, b in blades
    ]


def room(rng, w, h):
    """Wall, floor and a window."""
    wall, y = rng.choice(SCENERY), rng.uniform(0.6, 0.75) * h
    shapes = [
        Shape(box(0, 0, w, h), wall),
        Shape(box(0, y, w, h), FLOOR),
        Shape(box(0, y - 0.03 * h, w, y), WHITE),
    ]
    x, r = rng.uniform(0.1, 0.6) * w, 0.16 * w
    shapes += [Shape(box(x, 0.08 * h, x + 2 * r, 0.08 * h + 2 * r), WHITE)]
    panes = [(x + a * r, 0.08 * h + b * r) for a in (0.1, 1.05) for b in (0.1, 1.05)]
    return shapes + [Shape(box(a, b, a + 0.85 * r, b + 0.85 * r), PANE) for a, b in panes]


def thing(rng):
    """A ball, a bowl, a bush or a cushion: about 1 in radius, standing on (0, 0)."""
    ink = rng.choice(BRIGHT)
    leaf = mix((70, 130, 70), (110, 160, 80), rng.random())
    ball = [
        Shape(oval(0, -1, 1, 1), ink, mix(ink, INK, 0.5), ((oval(0, -1, 0.35, 1.2), WHITE),), 0.13)
    ]
    side = Shape([(-1.1, -0.8), (1.1, -0.8), (0.8, 0), (-0.8, 0)], ink)
    bowl = [side, Shape(oval(0, -0.8, 1.1, 0.25), mix(ink, INK, 0.4))]
    tufts = ((-0.8, -0.6), (0.8, -0.6), (0, -1.1))
    bush = [Shape(oval(x, y, 0.8, 0.75), leaf, mix(leaf, INK, 0.3), (), 0.13) for x, y in tufts]
    cushion = curve(
        [
            (-1.4, 0),
            (-1.2, -0.6),
            (-1.4, -1.2),
            (0, -1.05),
            (1.4, -1.2),
            (1.2, -0.6),
            (1.4, 0),
            (0, -0.1),
        ]
    )
    return rng.choice((ball, bowl, bush, [Shape(cushion, ink, mix(ink, INK, 0.4), (), 0.13)]))


# === Pictures =====================================================================================


def placed(shapes, inside, rng, w, h):
    """An animal turned a little, facing either way, its last `inside` shapes fitted into w by h.

    One that is inside from head to foot stands near the lower edge, on its shadow.
    """
    shapes = moved(moved(shapes, turn=rng.uniform(-0.1, 0.1)), sx=rng.choice((-1, 1)))
    x0, y0, x1, y1 = extent([point for shape in shapes[-inside:] for point in shape.points])
    whole = inside == len(shapes)
    scale = min(w / (x1 - x0), h / (y1 - y0)) * rng.uniform(0.86, 0.98)
    slack_x, slack_y = w - scale * (x1 - x0), h - scale * (y1 - y0)
    dx, dy = (
        slack_x * rng.uniform(0.1, 0.9) - scale * x0,
        slack_y * rng.uniform(0.7, 0.9) - scale * y0,
    )
    shadow = [Shape(oval((x0 + x1) / 2, y1 - 0.1, (x1 - x0) * 0.48, 0.2), SHADOW)] if whole else []
    return moved(shadow + shapes, dx, dy, scale, scale)


def paint(image, shape, light):
    """Paint one shape on the image: fill, marks, shade on the side away from the light, edge."""
    ImageDraw.Draw(image).polygon(shape.points, fill=shape.fill)
    mask, over = Image.new("L", image.size), image.copy() if shape.marks else image
    ImageDraw.Draw(mask).polygon(shape.points, fill=255)
    for points, ink in shape.marks:
        ImageDraw.Draw(over).polygon(points, fill=ink)
    if shape.marks:
        image.paste(over, mask=mask)
    if shape.shade:
        lit = [(x + light * shape.shade, y - shape.shade) for x, y in shape.points]
        ImageDraw.Draw(mask).polygon(lit, fill=0)
        image.paste(INK, mask=mask.point(lambda value: round(value * 0.18)))
    if shape.edge:
        outline = [*shape.points, *shape.points[:2]]
        ImageDraw.Draw(image).line(
            outline, fill=shape.edge, width=round(image.width / 130), joint="curve"
        )


def draw(label, rng):
    """A drawing of a cat or a dog: RGB, sides of about 115 to 195 pixels, 3:4 to 4:3."""
    pose, longer = rng.choice(POSES), rng.randint(152, 194)
    w, h = longer, round(longer * rng.uniform(0.75, 1))
    # Those two are wide: an upright picture makes them small.
    if pose not in (walking, lying) and rng.random() < 0.5:
        w, h = h, w
    size = (w * FINER, h * FINER)
    shapes = rng.choice((gradient, plain, pattern, meadow, room))(rng, *size)
    if rng.random() < 0.4:
        scale = rng.uniform(0.08, 0.13) * size[0]
        item, x, y = thing(rng), rng.choice((0.12, 0.88)), rng.uniform(0.85, 0.95)
        shapes += moved(item, size[0] * x, size[1] * y, scale, scale)
    shapes += placed(*pose(new_look(label, rng), rng), rng, *size)
    image, light = Image.new("RGB", size), rng.choice((-1, 1))
    for shape in shapes:
        paint(image, shape, light)
    tint = Image.new("RGB", (w, h), rng.choice((INK, WHITE, *LIGHTS)))
    return Image.blend(image.resize((w, h), Image.Resampling.LANCZOS), tint, rng.uniform(0, 0.1))


def plan():
    """Every drawing of the dataset: (path below the dataset's folder, label)."""
    paths = [
        (f"{split}/{label}/{number:03d}.jpg", label)
        for split, count in COUNTS.items()
        for label in LABELS
        for number in range(count)
    ]
    return [*paths, SAMPLE]


def draw_dataset(target):
    """Draw the whole dataset into the folder `target`, replacing drawings of the same names."""
    for path, label in plan():
        file = Path(target, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        draw(label, random.Random(path.removesuffix(".jpg"))).save(
            file, quality=76, optimize=True, comment=COMMENT
        )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "target", nargs="?", default=Path(__file__).parents[2] / "dataset", metavar="TARGET"
    )
    target = parser.parse_args(argv).target
    draw_dataset(target)
    print(f"{len(plan())} drawings in {target}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
