"""The error names of the BlueGen web service and their statuses (seed 000, Appendix A)."""

from __future__ import annotations

from collections.abc import Mapping

from fpd.sim.answers import Refusal

STATUS: Mapping[str, int] = {
    "InvalidAccessKeyId": 403,
    "Malformed unit id": 400,
    "Malformed request": 400,
    "Malformed request clientname": 400,
    "Malformed request customername": 400,
    "Malformed request timestamp": 400,
    "Malformed request power": 400,
    "Number of requests per day exceeded": 503,
    "Request out of range": 403,
    "NegativeTimestamp": 403,
    "UnitRequestTimeout": 408,
    "ShonkyRampRate": 403,
    "UnitInvalid": 400,
    "InvalidURI": 400,
    "MalformedRequest": 400,
    "GroupNotEmpty": 400,
    "Group exists": 409,
    "Malformed request profile point": 400,
    "Malformed request profile owner": 409,
    "Profile exists": 409,
    "PermissionDenied": 409,
    "ProfileInUse": 409,
    "Malformed request profile point range": 409,
    "SockFellOff": 500,
    "UnitNotRespondng": 500,
    "UnitTimedOut": 500,
    "UnitAtRequestedPower": 403,
    "UnitCommsError": 403,
    "UnitRespondedIncorrectly": 403,
    "Malformed request fname": 400,
    "Malformed request lname": 400,
    "Malformed request email": 400,
    "Malformed request lang": 400,
    "Malformed request tz": 400,
    "Malformed request dformat": 400,
    "User doesn't exist": 400,
    "Malformed request graph tooltip": 400,
    "Malformed request graph popup": 400,
    "Bad Credentials": 400,
    "Too many attempts": 400,
    "Account suspended": 400,
    "Naughty IP": 400,
    "Bad Token": 400,
    "Invalid data range": 400,
    "No profile points": 400,
    "Max profile count reached": 400,
}


def no(name: str, *, invalid: str = "") -> Refusal:
    """Return the refusal of that name; `invalid` is what the caller did against the manual."""
    return Refusal(STATUS[name], name, invalid=(invalid,) if invalid else ())
