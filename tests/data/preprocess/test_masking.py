from __future__ import annotations

import pytest

from fusedlm.data.preprocess import mask
from fusedlm.data.preprocess.masking import KINDS, iban, luhn

ALL = tuple(KINDS)

PERSONAL = [
    ("write to jane.doe+x@mail.example.co.uk.", "write to [EMAIL]."),
    ("<a@b.org>, 张三@例子.中国", "<[EMAIL]>, [EMAIL]"),
    ("邮箱是zhang@x.com谢谢，josé@x.fr", "邮箱是[EMAIL]谢谢，[EMAIL]"),
    ("card 4111 1111 1111 1111 2027", "card [CARD] 2027"),
    ("4111111111111111", "[CARD]"),
    ("no,4111111111111111,tel.+49 30 1234567,x", "no,[CARD],tel.[PHONE],x"),
    ("4111 1111 1111 1111 2nd", "[CARD] 2nd"),
    ("378282246310005; 6011-1111-1111-1117", "[CARD]; [CARD]"),
    ("IBAN DE89 3704 0044 0532 0130 00 please", "IBAN [IBAN] please"),
    ("GB29NWBK60161331926819, BE68539007547034", "[IBAN], [IBAN]"),
    ("from 192.168.0.1 and 2001:db8::8a2e:370:7334.", "from [IP] and [IP]."),
    ("::ffff:10.0.0.1 fe80::1", "[IP] [IP]"),
    ("call +49 (0)30 123456-78 or +1-202-555-0143", "call [PHONE] or [PHONE]"),
    ("(202) 555-0143, 202-555-0143, 1 202 555 0143", "[PHONE], [PHONE], [PHONE]"),
    ("电话13812345678，138 1234 5678", "电话[PHONE]，[PHONE]"),
    ("030/1234567 0170 1234567 (020) 7946 0958", "[PHONE] [PHONE] [PHONE]"),
    ("手机：１３８１２３４５６７８", "手机：[PHONE]"),
]
HARMLESS = [
    "on 2024-01-02, 01.02.2024, 02/01/2024 and 1914-1918",
    "pi is 3.14159265358979, e 2.718281828459045",
    "1,000,000 of 12345678901234 rows",
    "4111 1111 1111 1112",
    "GB29 NWBK 6016 1331 9268 18",
    "version 1.2.3, 999.1.1.1, 1.2.3.4.5, 12:30:45, a::b, std::dec",
    "@home, a @ b, user@localhost",
    "ISBN 978-3-16-148410-0, page 100 200 300",
    "scores 7 8 9 10 11 12 and 10-12-14",
    "he gave it 10/10 in 2001 2002 2003",
]


@pytest.mark.parametrize(("text", "masked"), PERSONAL)
def test_personal_data_is_masked(text, masked):
    assert mask(text, ALL)[0] == masked


@pytest.mark.parametrize("text", HARMLESS)
def test_other_numbers_stay(text):
    assert mask(text, ALL) == (text, {})


def test_what_was_masked_is_counted_by_kind_and_only_what_was_asked_for():
    text = "a@b.org c@d.org 192.168.0.1 +49 30 1234567"
    assert mask(text, ALL)[1] == {"email": 2, "ip": 1, "phone": 1}
    assert mask(text, ("ip",)) == ("a@b.org c@d.org [IP] +49 30 1234567", {"ip": 1})


def test_masking_again_changes_nothing():
    for text, masked in PERSONAL:
        assert mask(masked, ALL) == (masked, {}), text


@pytest.mark.parametrize(
    "number", ["4111111111111111", "5555555555554444", "378282246310005", "6011111111111117"]
)
def test_a_changed_digit_fails_the_luhn_check(number):
    assert luhn(number)
    for place in range(len(number)):
        digit = str((int(number[place]) + 1) % 10)
        assert not luhn(number[:place] + digit + number[place + 1 :])


def test_iban_checks_digits_and_length():
    assert iban("DE89370400440532013000") and iban("NO9386011117947")
    assert not iban("DE89370400440532013001") and not iban("DE8937040044053201300")
    assert not iban("XX89370400440532013000")


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="mask: kinds holds 'mail', expected some of email, iban"):
        mask("a@b.com", ("ip", "mail"))
