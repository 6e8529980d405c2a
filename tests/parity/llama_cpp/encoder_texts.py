"""Texts that the tiny encoders' vocabularies are made of, and are compared on."""

TEXTS = [
    "How to bake a chocolate cake",
    "Symptoms of the flu",
    "To bake a cake, start by preheating your oven to 350°F (175°C).",
    "The flu is an illness caused by influenza viruses; fever, chills and a cough are common.",
    "unaffable, un-believable and  two  spaces\tand a tab",
    "Don't panic! 42 is the answer (or so they say).",
    "Straße, naïve, façade",
    "baking cakes bakes the cake",
    "你好世界",
    "",
]
