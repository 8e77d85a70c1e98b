"""The short common nouns, first names and cities that the skills are made of."""

from __future__ import annotations

WORDS: tuple[str, ...] = tuple(
    """
    apple arm baby back bag ball bank bed bell bird boat body book box boy bread bridge brother cake captain car cat
    chair chest child church city cloth cloud coat corner country cow cup day desk dinner doctor dog door dress ear
    earth egg eye face farm father field fire fish floor flower foot forest friend garden gate girl glass gold grass
    hair hall hand hat head heart hill home horse house ice island key king kitchen knife lady lake lamp leaf letter
    light line lion man milk money moon morning mother mountain mouth name neck night nose paper path pen picture pipe
    place queen rain river road rock roof room rope rose sail salt sand school sea ship shoe shop silver sister sky
    smoke snow soldier song star stone storm street summer sun sword table teacher tiger town train tree village wall
    water wind window winter wood
    """.split()
)

NAMES: tuple[str, ...] = tuple("Tom Ann Ben Sam Kate Jack Mary John Anna Will Jane Paul Lucy Mark Rose Peter".split())
PLACES: tuple[str, ...] = tuple("Rome Paris London Venice Berlin Boston Dublin York Oxford Cairo Madrid Vienna".split())
