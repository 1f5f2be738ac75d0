"""English words of closed classes, by which names and subjects are told apart.

There is no list of names here: a name is a capitalised word in the place of one. What is listed are
the words that can stand before or behind a name, which are few and do not change from file to file.
Verbs are open, so that only irregular past forms are listed; regular ones end in ``-ed``.
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PREPOSITIONS = _words(
    "about above across against along alongside among around at behind beneath beside besides "
    "between beyond by despite down during except following for from in inside into like near of "
    "off on onto out outside over past per regarding throughout to toward towards under upon via "
    "with within without"
)
#: Prepositions of place and time: what stands between one and a comma is no person.
LOCATIVES = _words("across around at in inside near on outside through throughout during")
COORDINATORS = _words("and but so yet then or nor plus")
SUBORDINATORS = _words(
    "after although as because before how if once since than that though till unless until what "
    "when whenever where whereas whether which while who whom whose why"
)
DETERMINERS = _words(
    "a an the this that these those some any no every each another both all his her its their my "
    "our your several many few more most other half one two three four five"
)
#: Pronouns that can only be subjects.
SINGULAR = _words("he she i")
PLURAL = _words("they")
ANYONE = _words("we you everyone everybody someone somebody nobody anyone anybody")
GENDERED = _words("he she him his her hers himself herself")
ADVERBS = _words(
    "afterward afterwards again almost alone already also altogether always away both each earlier "
    "else even ever finally first forever here however indeed instead just last late later "
    "maybe meanwhile moreover mostly nearly never nevertheless next now often once only perhaps "
    "quite rather seldom sometimes somehow soon still suddenly then there therefore thus today "
    "together tomorrow tonight too twice usually well yesterday"
)
AUXILIARIES = _words(
    "am are be been being can could did do does had has have is may might must shall should was "
    "were will would"
)
#: Words that open a sentence and are no names; those in ``-ly``, ``-ed``, ``-ing`` are others.
MOODS = _words(
    "angry anxious curious eager early grateful happy hungry keen proud sad sunny thirsty unable "
    "upset weary afraid glad generous kind back upstairs downstairs outdoors indoors nearby "
    "overnight midway thereafter hence still elsewhere besides lately please overjoyed full sure"
)
FUNCTION = (
    PREPOSITIONS
    | COORDINATORS
    | SUBORDINATORS
    | DETERMINERS
    | SINGULAR
    | PLURAL
    | ANYONE
    | GENDERED
    | ADVERBS
    | AUXILIARIES
    | _words("it them us me not to there thanks through")
)
#: Verbs whose next name is their object even where another verb follows.
TAKES_PERSON = _words(
    "asked brought bought called caught cheered gave given found handed heard helped hugged "
    "greeted had invited joined kissed lent let made met noticed offered paid passed praised "
    "promised reminded saw sent served showed shown surprised taught thanked told took visited "
    "watched wished ask give hand help hug invite join lend meet offer pass see send show surprise "
    "teach tell thank visit watch"
)
#: Verbs that people are met or spoken to by, and places are not.
MEETS = _words(
    "asked called greeted helped hugged invited joined met meet meeting named told thanked welcomed"
)
PAST = AUXILIARIES | _words(
    "ate became began bent bit blew bought broke brought built came caught chose cut dealt drank "
    "drew drove fed fell felt flew forgot fought found gave got grew held hid hit kept knew laid "
    "led left lent let lit lost made met paid put ran rang read rode rose said sang sat saw sent "
    "set shook shot shut slept slid sold spent split spoke spread stood stole stuck swam swept "
    "taught thought threw told took tore went woke won wore wrote"
)
#: Nouns of measure: "a slice of" is followed by what is sliced, not by a person.
MEASURES = _words(
    "bag bar basket batch bit bottle bouquet bowl box bunch can carton copy couple cup dozen glass "
    "handful jar jug kind list loaf lot mug pack packet pair piece pile pint pitcher plate portion "
    "pot round scoop serving set share slice sort spoonful tin tray tub type variety"
)
KIN = _words(
    "aunt boss boyfriend brother classmate coach colleague cousin dad daughter father friend "
    "girlfriend grandfather grandma grandmother grandpa husband mom mother neighbor neighbour "
    "nephew niece roommate sister son teacher teammate uncle wife"
)
CALENDAR = _words(
    "Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April May "
    "June July August September October November December Christmas Easter Halloween Thanksgiving"
)
HONORIFICS = _words("Mr Mrs Ms Dr Prof")


def is_adverb(word: str) -> bool:
    """Whether a word can stand between a subject and its neighbours without being a verb."""
    low = word.lower()
    return low in ADVERBS or (low.endswith("ly") and len(low) > 4)


def is_past(word: str) -> bool:
    """Whether a word looks like a verb in the past tense, or an auxiliary."""
    low = word.lower()
    return low in PAST or (low.endswith("ed") and len(low) > 3)


def is_function(word: str) -> bool:
    """Whether a word is of a closed class and can open a statement, as auxiliaries cannot."""
    return word.lower() in FUNCTION - AUXILIARIES


def opens_sentence(word: str) -> bool:
    """Whether a capitalised word at the start of a sentence may well be no name."""
    low = word.lower()
    return low in FUNCTION or low in MOODS or low.endswith(("ly", "ed", "ing"))
