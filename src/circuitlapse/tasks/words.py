"""The words that fill the templates' places.

Every name, place and object is one token of GPT-2's vocabulary when a space precedes it, so the
same prompts serve GPT-2 and the embedded model organism. Objects and places start with a consonant
("a ring"), names occur nowhere in the templates as ordinary words.
"""

NAMES: tuple[str, ...] = (
    "Adam", "Alice", "Amy", "Anna", "Brian", "Carl", "David", "Emily", "Frank", "George",
    "Helen", "Henry", "James", "Jane", "John", "Kate", "Kevin", "Laura", "Lucy", "Maria",
    "Martin", "Mary", "Nick", "Paul", "Peter", "Rachel", "Sarah", "Simon", "Susan", "Tom",
)  # fmt: skip

PLACES: tuple[str, ...] = (
    "store", "park", "school", "garden", "station", "hospital", "restaurant", "beach", "library",
    "market", "museum", "bridge", "lake", "farm",
)  # fmt: skip

OBJECTS: tuple[str, ...] = (
    "ring", "book", "ball", "drink", "cake", "coin", "key", "flower", "map", "basket", "computer",
    "lamp", "watch", "ticket",
)  # fmt: skip
