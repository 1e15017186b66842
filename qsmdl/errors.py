"""The one exception users see: an input that breaks a rule."""


class InputError(ValueError):
    """An input, file or setting that cannot be used.

    The message names the value, the rule it breaks and the remedy; the commands print it alone, without a traceback.
    """
