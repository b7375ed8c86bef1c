"""Names of organs, as data sets write them, to the codes that Slicer and DICOM know them by (SNOMED CT).

Covers what the common sets of labels call organs (BTCV, AMOS, FLARE, TotalSegmentator, Medical Segmentation Decathlon,
BraTS), in their own spelling: AMOS has an "arota", BTCV an "eso". A name that is not understood, or that may mean two
things (BTCV's "lad"), gets no code: a wrong one would be worse.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

ANATOMY = ("123037004", "Anatomical Structure")
ALTERED = ("49755003", "Morphologically Altered Structure")
_CONTEXT = "Segmentation category and type - 3D Slicer General Anatomy list"
_REGIONS = "Anatomic codes - DICOM master list"
_SIDES = {"right": ("24028007", "Right"), "left": ("7771000", "Left")}

# SNOMED CT code | its meaning | how data sets call it, sides left out.
_ORGANS = """
10200004 | Liver | liver
78961009 | Spleen | spleen
15776009 | Pancreas | pancreas
69695003 | Stomach | stomach, sto
28231008 | Gallbladder | gallbladder, gall bladder, gall
32849002 | Esophagus | esophagus, oesophagus, eso
38848004 | Duodenum | duodenum
30315005 | Small intestine | small bowel, small intestine
71854001 | Colon | colon
34402009 | Rectum | rectum
64033007 | Kidney | kidney, kidneys
23451007 | Adrenal gland | adrenal gland, adrenal glands, adrenal
89837001 | Bladder | urinary bladder, bladder
41216001 | Prostate | prostate
64739004 | Seminal vesicle | seminal vesicle, seminal vesicles
35039007 | Uterus | uterus
15497006 | Ovary | ovary
40689003 | Testis | testis
15825003 | Aorta | aorta, arota
7832008 | Abdominal aorta | abdominal aorta
113262008 | Thoracic aorta | thoracic aorta
64131007 | Inferior vena cava | inferior vena cava, postcava, ivc
48345005 | Superior vena cava | superior vena cava, svc
35532006 | Vena cava | vena cava
32764006 | Portal vein | portal vein
35819009 | Splenic vein | splenic vein
8993003 | Hepatic vein | hepatic vein, hepatic veins
57850000 | Celiac axis | celiac trunk, celiac axis
42258001 | Superior mesenteric artery | superior mesenteric artery
90771006 | Superior Mesenteric Vein | superior mesenteric vein
2841007 | Renal artery | renal artery
56400007 | Renal vein | renal vein
73634005 | Common iliac artery | iliac artery, common iliac artery
46027005 | Common iliac vein | iliac vena, iliac vein, common iliac vein
122972007 | Pulmonary vein | pulmonary vein
81040000 | Pulmonary artery | pulmonary artery
45341000 | Pulmonary trunk | pulmonary trunk
41801008 | Coronary artery | coronary artery, coronary arteries
12691009 | Brachiocephalic trunk | brachiocephalic trunk
36765005 | Subclavian artery | subclavian artery
32062004 | Common carotid artery | common carotid artery
86117002 | Internal carotid artery | internal carotid artery
12123001 | Internal jugular vein | internal jugular vein
8887007 | Brachiocephalic vein | brachiocephalic vein
59820001 | Blood Vessel | vessel, vessels, blood vessel, blood vessels, hepatic vessel, hepatic vessels, liver vessels
59820001 | Blood Vessel | lung vessels
80891009 | Heart | heart
82471001 | Left atrium | left atrium, heart atrium left
73829009 | Right atrium | right atrium, heart atrium right
87878005 | Left ventricle | left ventricle, heart ventricle left
53085002 | Right ventricle | right ventricle, heart ventricle right
33626005 | Left auricular appendage | left atrial appendage, atrial appendage left
39607008 | Lung | lung, lungs
45653009 | Upper lobe of lung | lung upper lobe
90572001 | Lower lobe of lung | lung lower lobe
72481006 | Middle lobe of right lung | lung middle lobe right, right lung middle lobe
44567001 | Trachea | trachea
110726009 | Trachea and bronchus | trachea and bronchus, lung trachea bronchia
955009 | Bronchus | bronchus
69748006 | Thyroid | thyroid gland, thyroid
9875009 | Thymus | thymus
45289007 | Parotid gland | parotid gland, parotid
54019009 | Submandibular gland | submandibular gland
4596009 | Larynx | larynx
54066008 | Pharynx | pharynx
31389004 | Oropharynx | oropharynx
81502006 | Hypopharynx | hypopharynx
21974007 | Tongue | tongue
49460000 | Soft palate | soft palate
279549004 | Nasal cavity | nasal cavity
74262004 | Oral cavity | oral cavity
13561001 | Lacrimal gland | lacrimal gland
89545001 | Face | face
79652003 | Eyeball | eyeball, eye
78076003 | Lens | eye lens, lens
18234004 | Optic nerve | optic nerve
244453006 | Optic chiasm | optic chiasm
56329008 | Pituitary | pituitary, pituitary gland
12738006 | Brain | brain
119238007 | Brain stem | brainstem, brain stem
113305005 | Cerebellum | cerebellum
5366008 | Hippocampus | hippocampus
66720007 | Lateral ventricle | lateral ventricle
11000004 | Caudate nucleus | caudate nucleus, caudate
89278009 | Putamen | putamen
14738005 | Globus Pallidus | globus pallidus, pallidum
4958002 | Amygdala | amygdala
85637007 | Internal capsule | internal capsule
83251001 | Frontal lobe | frontal lobe
16630005 | Parietal lobe | parietal lobe
31065004 | Occipital lobe | occipital lobe
78277001 | Temporal lobe | temporal lobe
35951006 | Subarachnoid space | subarachnoid space
2748008 | Spinal cord | spinal cord
89546000 | Skull | skull
421060004 | Spine | spine, vertebral column, spinal column
51282000 | Vertebra | vertebra, vertebrae
91609006 | Mandible | mandible
21387005 | Hyoid bone | hyoid bone, hyoid
56873002 | Sternum | sternum
51299004 | Clavicle | clavicula, clavicle
79601000 | Scapula | scapula
85050009 | Humerus | humerus
62413002 | Radius | radius
23416004 | Ulna | ulna
36455000 | Metacarpal | metacarpal
29836001 | Hip | hip
71341001 | Femur | femur
64234005 | Patella | patella
12611008 | Tibia | tibia
87342007 | Fibula | fibula
2812003 | Femoral head | femoral head, head of femur
54735007 | Sacrum | sacrum
113197003 | Rib | rib, ribs
50016007 | Costal cartilage | costal cartilage, costal cartilages
44947003 | Erector spinae muscle | autochthon, erector spinae
31764008 | Trapezius muscle | trapezius
127954009 | Skeletal muscle | skeletal muscle
14806007 | C1 vertebra | vertebra c1
39976000 | C2 vertebra | vertebra c2
113205007 | C3 vertebra | vertebra c3
5329002 | C4 vertebra | vertebra c4
36978003 | C5 vertebra | vertebra c5
36054005 | C6 vertebra | vertebra c6
87391001 | C7 vertebra | vertebra c7
64864005 | T1 vertebra | vertebra t1
53733008 | T2 vertebra | vertebra t2
1626008 | T3 vertebra | vertebra t3
73071006 | T4 vertebra | vertebra t4
56401006 | T5 vertebra | vertebra t5
45296009 | T6 vertebra | vertebra t6
62487009 | T7 vertebra | vertebra t7
11068009 | T8 vertebra | vertebra t8
82687006 | T9 vertebra | vertebra t9
7610001 | T10 vertebra | vertebra t10
12989004 | T11 vertebra | vertebra t11
23215003 | T12 vertebra | vertebra t12
66794005 | L1 vertebra | vertebra l1
14293000 | L2 vertebra | vertebra l2
36470004 | L3 vertebra | vertebra l3
11994002 | L4 vertebra | vertebra l4
49668003 | L5 vertebra | vertebra l5
"""
_FINDINGS = """
108369006 | Neoplasm | tumor, tumour, cancer, neoplasm, liver tumor, liver tumour, kidney tumor, lung tumor
108369006 | Neoplasm | pancreas tumor, pancreatic tumor, pancreas cancer, colon cancer, lung cancer
108369006 | Neoplasm | colon cancer primaries, enhancing tumor, non enhancing tumor
108369006 | Neoplasm | brain tumor, enhancing tumour, non enhancing tumour
50960005 | Hemorrhage | hemorrhage, haemorrhage, intracerebral hemorrhage
41699000 | Effusion | effusion, pleural effusion, pericardial effusion
79654002 | Edema | edema, oedema, peritumoral edema, peritumoral oedema
6574001 | Necrosis | necrosis, necrotic core
52988006 | Lesion | lesion
367643001 | Cyst | cyst, kidney cyst
"""


@dataclass(frozen=True)
class Term:
    """What a segment is: category and type, each (code, meaning), and the side as a modifier, where it is known."""

    category: tuple[str, str]
    kind: tuple[str, str]
    side: tuple[str, str] | None = None

    @property
    def tag(self) -> str:
        """The text of Slicer's segment tag "TerminologyEntry"."""
        side = _coded(self.side) if self.side else "^^"
        return "~".join([_CONTEXT, _coded(self.category), _coded(self.kind), side, _REGIONS, "^^", "^^"])


def termOf(name: str) -> Term | None:
    """What a label of this name is; None where that is not certain."""
    words = _words(name)
    if words in _TABLE:
        return Term(*_TABLE[words])
    side = next((side for side in _SIDES if side in words.split()), None)
    if side is None:
        return None
    rest = " ".join(word for word in words.split() if word != side)
    found = _TABLE.get(rest)
    # A meaning with a side of its own must not get another one.
    if found is None or any(each in found[1][1].casefold() for each in _SIDES):
        return None
    return Term(*found, _SIDES[side])


def _words(name: str) -> str:
    """``kidney_R``, ``Right Kidney``, ``R. kidney`` -> "kidney right", "right kidney", "right kidney"."""
    text = re.sub(r"[^a-z0-9]+", " ", name.casefold()).strip()
    words = [
        {"r": "right", "rt": "right", "l": "left", "lt": "left"}.get(word, word) for word in text.split()
    ]
    text = " ".join(words)
    text = {"rkid": "right kidney", "lkid": "left kidney"}.get(text, text)
    text = re.sub(r"^(?:vertebrae|vertebra) ([ctl]\d+)$|^([ctl]\d+) vertebra$", r"vertebra \1\2", text)
    return re.sub(r"^(rib (?:left|right)) \d+$", r"\1", text)  # which rib has no code here


def _coded(term: tuple[str, str]) -> str:
    return f"SCT^{term[0]}^{term[1]}"


def _table() -> dict[str, tuple[tuple[str, str], tuple[str, str]]]:
    found = {}
    for text, category in ((_ORGANS, ANATOMY), (_FINDINGS, ALTERED)):
        for line in text.strip().splitlines():
            code, meaning, names = (part.strip() for part in line.split("|"))
            found |= {name.strip(): (category, (code, meaning)) for name in names.split(",")}
    return found


_TABLE = _table()
