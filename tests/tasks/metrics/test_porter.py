"""Stems are those of NLTK 3.5's Porter stemmer: Porter's own examples, and where NLTK departs from him."""

import pytest

from mirasol.tasks.metrics.porter import stem

STEMS = """caresses:caress ponies:poni ties:tie caress:caress cats:cat feed:feed agreed:agre plastered:plaster
bled:bled motoring:motor sing:sing conflated:conflat troubled:troubl sized:size hopping:hop tanned:tan
falling:fall hissing:hiss fizzed:fizz failing:fail filing:file happy:happi relational:relat
conditional:condit rational:ration digitizer:digit vietnamization:vietnam operator:oper feudalism:feudal
decisiveness:decis hopefulness:hope formality:formal triplicate:triplic formative:form formalize:formal
electrical:electr goodness:good revival:reviv allowance:allow airliner:airlin adjustable:adjust
replacement:replac adoption:adopt communism:commun effective:effect probate:probat rate:rate cease:ceas
controlling:control roll:roll dying:die dies:die died:die skies:sky news:news enjoy:enjoy by:by us:us
tried:tri skillfully:skill geologically:geolog"""


@pytest.mark.parametrize("pair", STEMS.split())
def test_stem(pair):
    word, expected = pair.split(":")
    assert stem(word) == expected
