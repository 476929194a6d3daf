-- Every kind of type, with the values that break naive copies: extremes, blanks, NULL beside '', BC, infinity, NaN, -0.
CREATE SCHEMA "odd ""schema";
CREATE TYPE "odd ""schema"."Mood" AS ENUM ('sad', 'it''s "ok"', 'happy');
CREATE DOMAIN public.small AS int4 CHECK (VALUE < 100);
CREATE DOMAIN public.code AS char(4);
CREATE DOMAIN public.moment AS timestamptz;
CREATE TYPE public.pair AS (a int4, b text);
CREATE TABLE "odd ""schema"."All, types" (
    at public.moment NOT NULL, id uuid NOT NULL, "a ""b" int2, i4 int4, i8 int8, f4 float4, f8 float8, b bool, t text, v varchar(9),
    n numeric, n2 numeric(12, 3), c char(5), one char, code public.code, internal "char", nm name, d date, ts timestamp, tz timestamptz,
    tm time, tmz timetz, iv interval, j json, jb jsonb, x xml, by bytea, ip inet, ci cidr, mac macaddr, bits bit(5), vbits varbit,
    o oid, re regclass, money money, pt point, poly polygon, tsv tsvector, tsq tsquery, lsn pg_lsn, r int4range, mr tstzmultirange,
    e "odd ""schema"."Mood", small public.small, pair public.pair, ia int4[], ta text[], ca char(3)[], ea "odd ""schema"."Mood"[],
    pa public.pair[], na numeric[], PRIMARY KEY (id)
);
INSERT INTO "odd ""schema"."All, types" VALUES
('2013-01-01 00:00:00.000001+00', '00000000-0000-0000-0000-000000000001', -32768, -2147483648, -9223372036854775808, '-0', '-0', true,
 '', '', 'NaN', -0.001, '', '', 'ab', '', '', 'infinity', '-infinity', 'infinity', '24:00:00', '00:00:00+15:59', '-178000000 years',
 '{"a":  1, "a": 2}', '{"b": [1, null, "\u00e9"]}', '<a>x</a>', '', '1.2.3.4', '10.0.0.0/8', '08:00:2b:01:02:03', '10101', '',
 4294967295, 'pg_class', '-92233720368547758.08', '(1e-300,-0)', '((0,0),(1,1),(2,0))', 'a:1A b:2', 'a & !b', '16/B374D848', 'empty', '{}',
 'it''s "ok"', 99, '(,)', '{}', '{"",NULL,"NULL","a,b","c\"d"}', '{"a  ",b}', '{sad,NULL}', '{"(1,)",NULL,"(,\"\")"}',
 '[-1:0][2:3]={{1,NaN},{NULL,4}}'),
('2013-01-01 00:00:00.000001+00', '00000000-0000-0000-0000-000000000002', 32767, 2147483647, 9223372036854775807, 'NaN', 'NaN', false,
 E'a"b,\n\r\n\t\\.', 'é€𝄞', 1e900::numeric + 1, 'NaN', 'a  ', ' ', 'abcd', 'x', 'na"me', '4713-01-01 BC', '294276-12-31 23:59:59.999999',
 '4713-01-01 00:00:00+00 BC', '00:00', '23:59:59.999999-15:59', '1 year -2 days 03:04:05.678901', '[]', '"x"', 'text', '\xdeadbeef00',
 '::ffff:1.2.3.4/96', '::/0', 'ff:ff:ff:ff:ff:ff', '00000', '1', 0, 'pg_type', '0.01', '(NaN,Infinity)', '((0,0))', '', 'a <-> b', '0/0',
 '[1,)', '{[2013-01-01,2013-02-01),[2014-01-01,infinity)}', 'happy', -5, '(7,"x ""y"", \\z")', '{{1,NULL},{3,4}}', '{{a},{b}}', NULL, '{happy}',
 '{}', '{Infinity,-Infinity,1.50}'),
('1970-01-01 00:00:00+00', '00000000-0000-0000-0000-000000000003', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
 NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
 NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
('9999-12-31 23:59:59.999999+00', '00000000-0000-0000-0000-000000000004', 0, 0, 0, 'Infinity', '5e-324', NULL, 'NULL', E'\\N', 0.00, 0.000, 'abcde',
 'z', '', 'é', repeat('n', 63), '0001-01-01', 'epoch', '1999-12-31 23:59:60+00', NULL, NULL, '0', 'null', 'null', '', NULL, NULL, NULL, NULL, NULL,
 NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '(1,2)', '{NULL}', '{}', '{}', '{}', NULL, '{}');
