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
-- Types that need others first, and the last of Postgres's own.
CREATE EXTENSION hstore SCHEMA public;
CREATE EXTENSION citext SCHEMA public;
CREATE TYPE public.reals AS RANGE (SUBTYPE = float8, MULTIRANGE_TYPE_NAME = public."reals, many");
CREATE TYPE public.moods AS RANGE (SUBTYPE = "odd ""schema"."Mood");
CREATE DOMAIN public.smaller AS public.small CHECK (VALUE < 50);
CREATE DOMAIN public.row_of AS public.smaller[] CHECK (array_length(VALUE, 1) < 9);
CREATE DOMAIN public.relation AS regclass;
CREATE TYPE public.nest AS (gone int4, "In ""side" public.pair, list public.pair[], word text COLLATE "POSIX", many public.row_of);
ALTER TYPE public.nest DROP ATTRIBUTE gone;
CREATE DOMAIN public.boxed AS public.nest;
ALTER TABLE "odd ""schema"."All, types"
    ADD n3 numeric, ADD n4 numeric, ADD mac8 macaddr8, ADD x8 xid8, ADD snap pg_snapshot, ADD xi xid, ADD ci_ cid, ADD ti tid, ADD jp jsonpath,
    ADD ln line, ADD ls lseg, ADD bx box, ADD bxs box[], ADD pth path, ADD cir circle, ADD i2v int2vector, ADD ov oidvector, ADD rt regtype[],
    ADD rp regprocedure, ADD rns regnamespace, ADD rcf regconfig, ADD rel public.relation, ADD hs hstore, ADD ct citext, ADD cta citext[],
    ADD rls public.reals, ADD rlm public."reals, many", ADD rla public.reals[], ADD rme public.moods, ADD dd public.smaller,
    ADD dda public.smaller[], ADD dra public.row_of, ADD nst public.nest, ADD nsa public.nest[], ADD bxd public.boxed, ADD dr daterange,
    ADD nr numrange, ADD nmr nummultirange, ADD xa xml[], ADD jba jsonb[], ADD ba bytea[], ADD f8a float8[], ADD f4a float4[], ADD tza timestamptz[],
    ADD iva interval[], ADD tsv2 tsvector[], ADD bpa bpchar[], ADD ca2 "char"[], ADD bita bit(3)[];
UPDATE "odd ""schema"."All, types" SET
    n3 = 'Infinity', n4 = ('9.' || repeat('123456789', 111) || 'e-3')::numeric, mac8 = '08:00:2b:01:02:03:04:05', x8 = '18446744073709551615',
    snap = '10:20:10,14,15', xi = '4294967295', ci_ = '7', ti = '(4294967294,65535)', jp = '$."a b"[*] ? (@ > 1.50)', ln = '{1,-1e-300,NaN}',
    ls = '[(0,-0),(1e308,Infinity)]', bx = '((2,2),(-1,-1))', bxs = '{((2,2),(-1,-1));((0,0),(0,0))}', pth = '[(0,0),(1,1)]', cir = '<(1,2),0>',
    i2v = '1 -2 3', ov = '0 4294967295', rt = '{text,"public.pair"}', rp = 'pg_catalog.int8(int4)', rns = 'pg_catalog', rcf = 'english',
    rel = 'pg_class', hs = '"a b"=>NULL, ""=>"", "q\""=>"x=>y"', ct = 'MixedCase', cta = '{A,a,NULL}', rls = '[-0,NaN)', rlm = '{(,1e-300],[2,3)}',
    rla = '{"[1,2)",empty,NULL}', rme = '[sad,happy)', dd = -7, dda = '[3:4]={1,NULL}', dra = '{1,2}',
    nst = ROW(ROW(NULL, ''), ARRAY[ROW(1, 'a,"b'), NULL]::public.pair[], E'\\ ( )', '{3}')::public.nest, nsa = '{NULL,"(,,,)"}',
    bxd = ROW(NULL, '{}', '', '{}')::public.nest, dr = '[4713-01-01 BC,infinity)', nr = '(-Infinity,1.10]', nmr = '{(,0.0),[1.00,)}',
    xa = '{<a/>,NULL}', jba = '{"{\"k\": 1.10}",null}', ba = '{"\\x00","\\x"}', f8a = '{-0,NaN,5e-324,-Infinity}', f4a = '{-0,1.1,3.4028235e38,1e-45}',
    tza = '{-infinity,"4713-01-01 00:00:00+00 BC"}', iva = '{infinity,-infinity,00:00:00.000001}', tsv2 = '{"''a b'':1,2C ''c''"}', bpa = '{"a  ",""}',
    ca2 = '{a,"",NULL}', bita = '{101,000}'
WHERE id = '00000000-0000-0000-0000-000000000001';
UPDATE "odd ""schema"."All, types" SET
    n3 = '-Infinity', n4 = '-0.000', x8 = '0', pth = '((0,0),(1,1),(5,5))', hs = '', ct = '', rls = 'empty', rlm = '{}', nst = ROW(NULL, NULL, NULL, NULL)::public.nest,
    dra = '{}', rla = '{}', f8a = '[0:1][-2:-1]={{1,2},{3,4}}', bxs = '{}', jp = 'strict $', snap = '1:1:', iv = 'infinity', ln = '{0,1,0}', i2v = ''
WHERE id = '00000000-0000-0000-0000-000000000002';
