#!/usr/bin/env python3
"""Tells which key of a gateway's key file a request bears, and whether it is accepted. docs/gateway.md has the format.

    verify.py /etc/edge/keys.json < KEY     prints the key's ID; exit status 1 for a key that is refused

It reads the file for each request, so that it sees every change. It reports no uses, which a gateway must do, too.
"""
import base64, hashlib, hmac, json, os, re, sys, zlib
from datetime import datetime, timezone

TOKEN = re.compile(r"ktg_([A-Z2-7]{16})_[A-Z2-7]{52}([0-9A-Za-z]{6})")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/:-]{0,127}")
FIELDS = {"id", "principal", "scopes", "state", "createdAt", "expiresAt", "token", "imported", "salt", "hash"}
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def find(path, value):
    """The key that value is, None for none. Any exception: the file cannot be trusted, so that every key is refused."""
    token = id_in(value)
    for key in read(path):
        candidate = not key.get("imported") and key["id"] == token if token else key.get("imported")
        digest = hashlib.sha256(base64.b64decode(key["salt"]) + value.encode()).digest()
        if candidate and hmac.compare_digest(digest, base64.b64decode(key["hash"])):
            return key
    return None


def accepted(key, now):
    return key["state"] == "active" and not ("expiresAt" in key and now >= time(key["expiresAt"]))


def time(text):
    """A time of RFC 3339, of which the fraction may have nine digits."""
    return datetime.fromisoformat(re.sub(r"\.\d+", lambda fraction: (fraction[0] + "00000")[:7], text).replace("Z", "+00:00"))


def id_in(value):
    """The key ID in a value of the form that keyturn mints, with the right checksum; None in any other."""
    form = TOKEN.fullmatch(value)
    rest, digits = zlib.crc32(value[:-6].encode()), ""
    for _ in range(6):
        rest, digits = rest // 62, DIGITS[rest % 62] + digits
    return form[1] if form and form[2] == digits else None


def read(path):
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_mode & 0o022:
            raise ValueError("others may write the file")
        content = json.load(file)
    keys = content["keys"] or []
    trusted = set(content) == {"schema", "keys"} and content["schema"] == "keyturn/gateway-keys/v1" and all(map(sound, keys))
    tokens = [key["token"] for key in keys if key.get("token")]
    if not trusted or len({key["id"] for key in keys}) < len(keys) or len(set(tokens)) < len(tokens):
        raise ValueError("the file is not what it should be")
    return keys


def sound(key):
    return (set(key) <= FIELDS and NAME.fullmatch(key["id"]) and NAME.fullmatch(key["principal"])
            and key["state"] in ("active", "disabled") and time(key["createdAt"]).year > 1
            and len(base64.b64decode(key["salt"], validate=True)) == 16 and len(base64.b64decode(key["hash"], validate=True)) == 32)


if __name__ == "__main__":
    found = find(sys.argv[1], sys.stdin.readline().rstrip("\n"))
    if not found or not accepted(found, datetime.now(timezone.utc)):
        sys.exit(1)
    print(found["id"])
