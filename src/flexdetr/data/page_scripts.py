"""The scripts that drawn pages are written in: words of real languages, and how a line of them runs.

The words are those of the first articles of the Universal Declaration of Human Rights, which every language has.
"""

# ruff: noqa: RUF001 - letters of other scripts are meant
from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Script:
    """A way of writing.

    Attributes:
        name: its English name.
        texts: of one language each; words between spaces, or characters where ``spaced`` is False.
        train: beginnings of the file names of fonts for pages to train on.
        held_out: the same for pages that are held out; no font is in both.
        package: Debian's package with a font for it.
        spaced: words have spaces between them.
        right_to_left: lines run from right to left.
        columns: may also be written in columns from top to bottom, the first one at the right.
        shaped: letters change with their neighbours, which Pillow draws with libraqm only.
    """

    name: str
    texts: tuple[str, ...]
    train: tuple[str, ...]
    held_out: tuple[str, ...]
    package: str
    spaced: bool = True
    right_to_left: bool = False
    columns: bool = False
    shaped: bool = False

    def words(self, text: str) -> tuple[str, ...]:
        """The pieces of a text between which a line may break."""
        return tuple(text.split()) if self.spaced else tuple(text.replace(" ", ""))


_LATIN: Final = (
    "All human beings are born free and equal in dignity and rights. They are endowed with reason and "
    "conscience and "
    "should act towards one another in a spirit of brotherhood. Everyone is entitled to all the rights "
    "and freedoms "
    "set forth in this Declaration, without distinction of any kind, such as race, colour, sex, "
    "language, religion, "
    "political or other opinion, national or social origin, property, birth or other status.",
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen "
    "begabt und "
    "sollen einander im Geiste der Brüderlichkeit begegnen. Jeder hat Anspruch auf die in dieser Erklärung "
    "verkündeten Rechte und Freiheiten ohne irgendeinen Unterschied, etwa nach Rasse, Hautfarbe, "
    "Geschlecht, Sprache, "
    "Religion, politischer oder sonstiger Überzeugung, nationaler oder sozialer Herkunft, Vermögen, Geburt.",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de "
    "conscience et doivent agir les uns envers les autres dans un esprit de fraternité. Chacun peut se "
    "prévaloir de "
    "tous les droits et de toutes les libertés proclamés dans la présente Déclaration, sans distinction aucune.",
    "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón y "
    "conciencia, deben comportarse fraternalmente los unos con los otros. Toda persona tiene todos los derechos y "
    "libertades proclamados en esta Declaración, sin distinción alguna de raza, color, sexo, idioma, religión.",
    "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są oni obdarzeni rozumem i "
    "sumieniem i powinni postępować wobec innych w duchu braterstwa.",
    "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan. Heille on annettu järki ja "
    "omatunto, ja heidän on toimittava toisiaan kohtaan veljeyden hengessä.",
)  # fmt: skip

SCRIPTS: Final = (
    Script(
        "Latin",
        _LATIN,
        (
            "DejaVuSans",
            "LiberationSerif",
            "LiberationSans",
            "LinLibertine_R",
            "LinLibertine_DR",
            "Lato-",
            "Caladea",
            "EBGaramond12",
            "JunicodeTwoBeta-Regular",
            "JunicodeTwoBeta-Condensed",
            "JunicodeTwoBeta-Bold",
            "FreeMono",
            "NotoSans-Regular",
            "NotoSans-Bold",
            "NotoSans-Condensed",
            "ComicNeue",
            "LinBiolinum_R",
            "NotoSerifDisplay-",
            "Breip",
            "dkg",
            "KaushanScript",
        ),
        (
            "DejaVuSerif",
            "Rufscript",
            "LiberationMono",
            "Carlito",
            "FreeSerif",
            "NotoSerif-",
            "DancingScript",
            "Inconsolata",
        ),
        "fonts-dejavu-core",
    ),
    Script(
        "Cyrillic and Greek",
        (
            "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом "
            "и совестью и "
            "должны поступать в отношении друг друга в духе братства. Каждый человек должен обладать "
            "всеми правами и "
            "всеми свободами, провозглашенными настоящей Декларацией, без какого бы то ни было различия.",
            "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. Είναι "
            "προικισμένοι με "
            "λογική και συνείδηση, και οφείλουν να συμπεριφέρονται μεταξύ τους με πνεύμα αδελφοσύνης.",
        ),
        ("DejaVuSans", "LiberationSerif", "NotoSans-Regular", "LinLibertine_R"),
        ("DejaVuSerif", "Carlito", "NotoSerif-", "FreeSerif"),
        "fonts-dejavu-core",
    ),
    Script(
        "Chinese",
        (
            "人人生而自由，在尊嚴和權利上一律平等。他們賦有理性和良心，並應以兄弟關係的精神相對待。人人有"
            "資格享受本宣言所載"
            "的一切權利和自由，不分種族、膚色、性別、語言、宗教、政治或其他見解、國籍或社會出身、財產、出"
            "生或其他身分等任何區別。",
            "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。人人有"
            "资格享有本宣言所载"
            "的一切权利和自由，不分种族、肤色、性别、语言、宗教、政治或其他见解、国籍或社会出身、财产、出"
            "生或其他身份等任何区别。",
        ),
        ("NotoSansCJK", "ukai", "uming"),
        ("NotoSerifCJK", "wqy-zenhei"),
        "fonts-noto-cjk",
        spaced=False,
        columns=True,
    ),
    Script(
        "Japanese",
        (
            "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。人間は、"
            "理性と良心とを授けられて"
            "おり、互いに同胞の精神をもって行動しなければならない。すべて人は、いかなる事由による差別をも"
            "受けることなく、この宣言に"
            "掲げるすべての権利と自由とを享有することができる。",
        ),
        ("NotoSansCJK", "ipam", "kiloji"),
        ("NotoSerifCJK", "AoyagiKouzan"),
        "fonts-noto-cjk",
        spaced=False,
        columns=True,
    ),
    Script(
        "Korean",
        (
            "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 인간은 천부적으로 "
            "이성과 양심을 부여받았으며 서로 "
            "형제애의 정신으로 행동하여야 한다.",
        ),
        ("NotoSansCJK", "NanumGothic", "NanumSquare"),
        ("NotoSerifCJK", "NanumMyeongjo"),
        "fonts-noto-cjk",
    ),
    Script(
        "Arabic",
        (
            "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق وقد وهبوا عقلا وضميرا وعليهم أن يعامل "
            "بعضهم بعضا بروح الإخاء. "
            "لكل إنسان حق التمتع بكافة الحقوق والحريات الواردة في هذا الإعلان دون أي تمييز.",
        ),
        ("DejaVuSans", "Amiri-", "KacstBook", "KacstOffice", "NotoSansArabic-Regular"),
        ("NotoNaskhArabic-", "KacstNaskh", "FreeSerif"),
        "fonts-hosny-amiri",
        right_to_left=True,
        shaped=True,
    ),
    Script(
        "Hebrew",
        (
            "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. כולם חוננו בתבונה ובמצפון, לפיכך חובה "
            "עליהם לנהוג איש "
            "ברעהו ברוח של אחווה.",
            "בְּרֵאשִׁית בָּרָא אֱלֹהִים אֵת הַשָּׁמַיִם וְאֵת הָאָרֶץ וְהָאָרֶץ הָיְתָה תֹהוּ וָבֹהוּ וְחֹשֶׁךְ עַל פְּנֵי תְהוֹם",
        ),
        ("DejaVuSans", "DavidCLM", "NotoSansHebrew-Regular", "SILEOT", "KeterYG"),
        ("FrankRuehlCLM", "NotoSerifHebrew-", "FreeSerif"),
        "culmus",
        right_to_left=True,
        shaped=True,
    ),
    Script(
        "Devanagari",
        (
            "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। "
            "उन्हें बुद्धि और "
            "अन्तरात्मा की देन प्राप्त है और परस्पर उन्हें भाईचारे के भाव से बर्ताव करना चाहिए।",
        ),
        ("Lohit-Devanagari", "NotoSansDevanagari-Regular"),
        ("NotoSerifDevanagari-", "FreeSans"),
        "fonts-lohit-deva",
        shaped=True,
    ),
    Script(
        "Thai",
        (
            "มนุษย์ ทั้งหลาย เกิด มา มี อิสระ และ เสมอภาค กัน ใน เกียรติศักดิ์ และ สิทธิ ต่าง มี เหตุผล "
            "และ มโนธรรม และ ควร "
            "ปฏิบัติ ต่อ กัน ด้วย เจตนารมณ์ แห่ง ภราดรภาพ",
        ),
        ("NotoSansThai-Regular", "NotoLoopedThai-Regular"),
        ("NotoSerifThai-",),
        "fonts-noto-core",
        spaced=True,
        shaped=True,
    ),
    Script(
        "Tamil",
        (
            "மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர் அவர்கள் மதிப்பிலும் உரிமைகளிலும் "
            "சமமானவர்கள் அவர்கள் "
            "நியாயத்தையும் மனச்சாட்சியையும் இயற்பண்பாகப் பெற்றவர்கள்",
        ),
        ("NotoSansTamil-Regular",),
        ("NotoSerifTamil-",),
        "fonts-noto-core",
        shaped=True,
    ),
)
