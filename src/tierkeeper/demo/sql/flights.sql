-- name: tables
CREATE TABLE public.airlines (
    carrier text NOT NULL,
    name    text NOT NULL
);
CREATE TABLE public.airports (
    faa   text NOT NULL,
    name  text NOT NULL,
    lat   double precision NOT NULL,
    lon   double precision NOT NULL,
    alt   integer NOT NULL,
    tz    smallint NOT NULL,
    dst   text NOT NULL,
    tzone text
);
CREATE TABLE public.planes (
    tailnum      text NOT NULL,
    year         smallint,
    type         text NOT NULL,
    manufacturer text NOT NULL,
    model        text NOT NULL,
    engines      smallint NOT NULL,
    seats        smallint NOT NULL,
    speed        smallint,
    engine       text NOT NULL
);
CREATE TABLE public.weather (
    origin     text NOT NULL,
    year       smallint NOT NULL,
    month      smallint NOT NULL,
    day        smallint NOT NULL,
    hour       smallint NOT NULL,
    temp       double precision,
    dewp       double precision,
    humid      double precision,
    wind_dir   smallint,
    wind_speed double precision,
    wind_gust  double precision,
    precip     double precision NOT NULL,
    pressure   double precision,
    visib      double precision NOT NULL,
    time_hour  timestamptz NOT NULL
);
CREATE TABLE public.flights (
    year           smallint NOT NULL,
    month          smallint NOT NULL,
    day            smallint NOT NULL,
    dep_time       smallint,
    sched_dep_time smallint NOT NULL,
    dep_delay      smallint,
    arr_time       smallint,
    sched_arr_time smallint NOT NULL,
    arr_delay      smallint,
    carrier        text NOT NULL,
    flight         integer NOT NULL,
    tailnum        text,
    origin         text NOT NULL,
    dest           text NOT NULL,
    air_time       smallint,
    distance       smallint NOT NULL,
    hour           smallint NOT NULL,
    minute         smallint NOT NULL,
    time_hour      timestamptz NOT NULL
);

-- name: constraints
-- The hours of the clock's change come twice in local time: only time_hour tells them apart.
-- No foreign keys from tailnum and dest: 52,606 tail numbers and 7,602 destinations have no parent.
ALTER TABLE public.airlines ADD PRIMARY KEY (carrier);
ALTER TABLE public.airports ADD PRIMARY KEY (faa);
ALTER TABLE public.planes ADD PRIMARY KEY (tailnum);
ALTER TABLE public.weather ADD PRIMARY KEY (origin, time_hour);
ALTER TABLE public.flights
    ADD PRIMARY KEY (time_hour, carrier, flight),
    ADD FOREIGN KEY (carrier) REFERENCES public.airlines,
    ADD FOREIGN KEY (origin) REFERENCES public.airports;

-- name: statistics
VACUUM ANALYZE public.airlines, public.airports, public.planes, public.weather, public.flights
