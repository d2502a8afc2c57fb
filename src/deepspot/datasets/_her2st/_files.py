from __future__ import annotations

COMMIT = "85df7411b987a7dec3feff9718b869a7a82091ec"
URL = f"https://github.com/almaan/her2st/raw/{COMMIT}/"

# Per patient: pattern of the image names, and the well on the array of section 1, 2, ….
_IMAGES = {
    "A": ("9769_{}_HE_small.jpg", "C1 C2 D1 D2 E1 E2"),
    "B": ("BT10737_{}_HE.jpg", "C1 C2 D1 D2 E1 E2"),
    "C": ("5714_HE_BT_{}.jpg", "C1 C2 D1 D2 E1 E2"),
    "D": ("10426_HE_BT_{}.jpg", "C1 C2 D1 D2 E1 E2"),
    "E": ("HE_BT23567_{}.jpg", "D2 E1 E2"),
    "F": ("HE_BT23810_{}.jpg", "D2 E1 E2"),
    "G": ("HE_BT23903_{}.jpg", "C1a C2a D1a"),
    "H": ("HE_BT24044_{}.jpg", "D2 E1 E2"),
}

IMAGES = {
    f"{patient}{number}": pattern.format(well)
    for patient, (pattern, wells) in _IMAGES.items()
    for number, well in enumerate(wells.split(), start=1)
}
"""Image file of each of the 36 sections."""

SHA256 = {
    "data/ST-cnts/B4.tsv.gz": "e38231c2a38c9bc7e6d550eec0e527c1869ee0e525fc913e708d1323c34f5ebb",
    "data/ST-spotfiles/B4_selection.tsv": "192b46f3ca414c85753a01a4fb5760a697ca6c0a1aadb949c4687cc6efa9faa0",
    "data/ST-imgs/B/B4/BT10737_D2_HE.jpg": "3cb165614ce2a13426381e450220dccac980cc9bda6a90fb041c28ca0e2c753d",
    "data/ST-cnts/C2.tsv.gz": "c1c59ea6cffae36b9ecb561b8e2a97e3aa5f4085f748e991a0e330ed9d09773d",
    "data/ST-spotfiles/C2_selection.tsv": "235b5f4306b3b57c628ffc82c98c7109602474fbcc79a917b9c50517f99b6b1c",
    "data/ST-imgs/C/C2/5714_HE_BT_C2.jpg": "26e2f73ae840cdd46c5bba405aae181f13a56a376b9848dff23f7a9c5de7f19e",
    "data/ST-cnts/C3.tsv.gz": "e00c55a3eb9caac5d9c71b8906aae8be8b38f93e23938f4a0ebee17683ef6a2a",
    "data/ST-spotfiles/C3_selection.tsv": "7fd76c13370b7804ac3bb377b846d22485cf9223f9dd8dfc25be06e5aaf65755",
    "data/ST-imgs/C/C3/5714_HE_BT_D1.jpg": "0005a92674014d473040a28f0afca89ce5fa5c44019b479b638ceb3272ceb568",
    "data/ST-cnts/C4.tsv.gz": "33201f76d41d7131dc600a0f87d9a70383af3503e81698b4d11e6f2e8d73e9da",
    "data/ST-spotfiles/C4_selection.tsv": "47e79f3b9dbfa3a8c18af9e948ba7ba4bf0a75ea1b4c292bc714ced7d0917d4c",
    "data/ST-imgs/C/C4/5714_HE_BT_D2.jpg": "f40607eb1d5f0d125decd71c48b0c5d29cf6776ad92297fd185631208c82d6f2",
    "data/ST-cnts/C5.tsv.gz": "c0f310315ca6110d74dbdf7011e5b42432ba0b8eb5f001824764911988f39338",
    "data/ST-spotfiles/C5_selection.tsv": "2114cc3b4da759772112897f1e247d5443c9f8c808e6a9a952eb4fda379a194c",
    "data/ST-imgs/C/C5/5714_HE_BT_E1.jpg": "34028ea41e376396b50c42b0a11a7e689c85be4a8022e668d0a09cc128c04c65",
}
"""Checksums of the files that are known; the others are trusted on first download."""


def files(section: str) -> tuple[str, str, str]:
    """Paths of the counts, the spots and the image of a section, inside the authors' repository."""
    return (
        f"data/ST-cnts/{section}.tsv.gz",
        f"data/ST-spotfiles/{section}_selection.tsv",
        f"data/ST-imgs/{section[0]}/{section}/{IMAGES[section]}",
    )
