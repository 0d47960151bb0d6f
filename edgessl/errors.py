"""The errors of edgessl. Standard library only, so that every room, the device's included, can raise them.

Every message names the thing, what was expected and what was found, and says what to do about it.
"""


class EdgeSSLError(Exception):
    """Base of every error that edgessl raises on purpose; the CLI prints it without a traceback."""


class InputError(EdgeSSLError, ValueError):
    """An array, a label or an argument has the wrong shape, dtype or values; nothing was changed."""


class ConfigError(EdgeSSLError, ValueError):
    """A name, option or recipe key is unknown or out of range."""


class DataError(EdgeSSLError):
    """A data file or folder is missing, unreadable or not what it claims to be."""


class FormatError(EdgeSSLError):
    """Bytes do not follow the format they should (tensor file, manifest, state slot)."""


class BundleError(EdgeSSLError):
    """A bundle is truncated, altered, unsafe or of an unknown version."""


class SignatureError(BundleError):
    """A bundle is not signed by a trusted key, or was changed after it was signed."""


class DownloadError(EdgeSSLError):
    """A bundle cannot be fetched; what has arrived is kept for the next attempt."""


class UpdateError(EdgeSSLError):
    """What a device learned cannot move to another bundle; the message says what and why."""


class StateError(EdgeSSLError):
    """Learned state cannot be read or written; the last good generation on disk is untouched."""


class StateMismatchError(StateError):
    """The learned state belongs to another bundle or another configuration."""


class StateLockedError(StateError):
    """Another process holds this state directory."""


class BudgetError(EdgeSSLError, ValueError):
    """A declared budget (bytes, seconds) is too small for what was asked."""


class ExportError(EdgeSSLError):
    """A network or step cannot be expressed as a portable ONNX graph."""


class ParityError(ExportError):
    """An exported graph disagrees with torch beyond tolerance; no bundle was written."""


class FederationError(EdgeSSLError):
    """A federated message or round is not acceptable."""


class MissingDependencyError(EdgeSSLError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""
