
=pod

=head1 NAME

SoakLoad - what the sessions of the soak do

=head1 SYNOPSIS

  use SoakLoad;

  my $session = PsqlSession->new($node);
  $session->begin('\i ' . load_script($kind, $directory, $nats->url)) foreach load_kinds();

=cut

package SoakLoad;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use List::Util qw(shuffle);

use PostgreSQL::Test::Utils;

our @EXPORT = qw(load_kinds load_tables load_script short_sessions_script is_expected expected_failures);

=pod

=head1 FUNCTIONS

=over

=item load_kinds()

The names of the kinds of sessions: one for each way to publish, so that what grows is known by its name, and
C<mixed>, which does all of it.

=item load_tables()

SQL that creates what they use.

=item load_script($kind, $directory, $url)

Writes the same work in another order, and returns the file's name. The URL is that of a server that stays.

=item short_sessions_script($directory, $count)

So many sessions, one after the other: connect, publish, exit.

=item is_expected($kind, $sqlstate), expected_failures($kind)

May a session of this kind see the error; the errors that it must have seen in the end.

=back

=cut

# Of any statement: cancelled, or after one that was; no connection, or one that was lost; a stream, or a JetStream, that is
# not back yet; the same tables changed by two.
my %DISTURBED = map { $_ => 1 } qw(57014 25P02 25P01 3B001 40P01 58000 58030 42704 53000);

my @LEVELS = qw(row statement);
my @DELIVERIES = qw(on_commit async sync outbox);
my @FORMATS = qw(json cloudevents debezium);

sub changes
{
	my ($table) = @_;
	return [ 1, qq(INSERT INTO $table (note) SELECT 'n' || i FROM generate_series(1, 40) i;
		UPDATE $table SET note = note || 'x'; BEGIN; UPDATE $table SET note = 'y'; ROLLBACK; BEGIN; SAVEPOINT s; DELETE FROM $table;
		ROLLBACK TO s; UPDATE $table SET note = 'z' WHERE id % 2 = 0; COMMIT; DELETE FROM $table WHERE id % 3 = 0; TRUNCATE $table;) ];
}

sub tables { return map { my $level = $_; map { "changed_${level}_$_" } @DELIVERIES } @LEVELS; }

my $FOREIGN_SERVER = q(DROP SERVER IF EXISTS of_{kind} CASCADE; CREATE SERVER of_{kind} FOREIGN DATA WRAPPER nats OPTIONS (url '{url}', inbox_prefix '_{kind}');
	CREATE USER MAPPING FOR CURRENT_USER SERVER of_{kind} OPTIONS (user 'app', password 'secret'); SET nats_publish.server = 'of_{kind}';
	BEGIN; SELECT nats_publish_async('s.{kind}', 'x'); RESET nats_publish.server; SELECT nats_publish_on_commit('s.{kind}', 'x'); COMMIT;
	ALTER SERVER of_{kind} OPTIONS (ADD randomize 'on'); SET nats_publish.server = 'of_{kind}'; SELECT nats_publish('s.{kind}', 'x');
	DROP SERVER of_{kind} CASCADE; RESET nats_publish.server; SELECT nats_publish('s.{kind}', 'x'););

# How often, and what, in one turn. What a session sets it sets at the beginning, and RESET ALL is the end of it.
my %KINDS = (
	sync => { work => [
		[ 400, q(SELECT nats_publish('s.{kind}', 'x');) ],
		[ 8, q(SELECT count(nats_publish('s.{kind}', jsonb_build_object('i', i), '{"A": ["1", "2"], "B": 3}', gen_random_uuid()::text)) FROM generate_series(1, 50) i;) ],
		[ 10, q(BEGIN; INSERT INTO t VALUES (1); SELECT nats_publish('s.{kind}', '\x00ff'::bytea); ROLLBACK;) ] ] },
	async => { work => [
		[ 8, q(BEGIN; SELECT count(nats_publish_async('s.{kind}', i::text)) FROM generate_series(1, 1000) i; COMMIT;) ],
		[ 300, q(SELECT nats_publish_async('s.{kind}', 'x');) ],
		[ 20, q(BEGIN; SELECT (nats_await(nats_publish_async('s.{kind}', 'x'))).seq; SAVEPOINT a; SELECT nats_publish_async('s.{kind}', 'y', '{"A": "b"}');
			ROLLBACK TO a; SELECT nats_publish_async('s.{kind}', 'z'); SELECT nats_flush(); SELECT count(*) FROM nats_futures(); COMMIT;) ],
		[ 20, q(BEGIN; SELECT nats_publish_async('s.{kind}', 'x'); ROLLBACK;) ] ] },
	uncritical => { work => [
		[ 5, q(SELECT count(nats_publish_async('s.{kind}', i::text, critical => false)) FROM generate_series(1, 1000) i;) ],
		[ 300, q(SELECT nats_publish_async('s.{kind}', 'x', critical => false);) ],
		[ 20, q(BEGIN; SELECT nats_publish_async('full.a', 'x', critical => false); ROLLBACK;) ],
		[ 20, q(SELECT nats_publish_async('full.a', 'x', critical => false); SELECT nats_flush();) ] ] },
	on_commit => { work => [
		[ 300, q(SELECT nats_publish_on_commit('s.{kind}', 'x');) ],
		[ 6, q(BEGIN; SELECT count(nats_publish_on_commit('s.{kind}', i::text)) FROM generate_series(1, 500) i; SAVEPOINT a;
			SELECT count(nats_publish_on_commit('s.{kind}', i::text)) FROM generate_series(1, 500) i; ROLLBACK TO a; SAVEPOINT b;
			SELECT nats_publish_on_commit('s.{kind}', 'x', '{"A": "b"}'); RELEASE b; COMMIT;) ],
		[ 30, q(BEGIN; SELECT nats_publish_on_commit('s.{kind}', 'x'); ROLLBACK;) ],
		[ 4, q(DO $$ BEGIN FOR i IN 1 .. 50 LOOP BEGIN PERFORM nats_publish_on_commit('s.{kind}', 'x');
			IF i % 2 = 0 THEN RAISE 'x'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$;) ] ] },
	atomic => {
		settings => { 'nats_publish.server' => 'newer', 'nats_publish.commit_batch' => 'atomic' },
		fails => [ qw(0A000 22023 40001 54000) ],
		work => [
			[ 30, q(BEGIN; SELECT nats_publish_on_commit('a.{kind}', i::text) FROM generate_series(1, 10) i; COMMIT;) ],
			[ 2, q(BEGIN; SELECT count(nats_publish_on_commit('a.{kind}', i::text)) FROM generate_series(1, 500) i; COMMIT;) ],
			[ 10, q(BEGIN; SELECT nats_publish_on_commit('a.{kind}', i::text) FROM generate_series(1, 10) i; ROLLBACK;) ],
			[ 3, q(BEGIN; SELECT nats_publish_on_commit('a.{kind}', 'x'); SELECT nats_publish_on_commit('full.a', 'x'); COMMIT;) ],
			[ 3, q(BEGIN; SELECT nats_publish_on_commit('a.{kind}', 'x', msg_id => 'i') FROM generate_series(1, 2); COMMIT;) ],
			[ 3, q(BEGIN; SELECT nats_publish_on_commit('a.{kind}', 'x', expect_last_seq => 1); SELECT nats_publish_on_commit('a.{kind}', 'y'); COMMIT;) ],
			[ 1, q(BEGIN; SELECT count(nats_publish_on_commit('a.{kind}', 'x')) FROM generate_series(1, 1001); COMMIT;) ] ] },
	outbox => {
		fails => [ '22023' ],
		work => [
			[ 8, q(BEGIN; SELECT count(nats_publish_outbox('s.{kind}.' || i % 50, i::text)) FROM generate_series(1, 100) i; COMMIT;) ],
			[ 100, q(SELECT nats_publish_outbox('s.{kind}', 'x', '{"A": "b"}');) ],
			[ 20, q(BEGIN; SELECT nats_publish_outbox('s.{kind}', 'x'); ROLLBACK;) ],
			[ 5, q(INSERT INTO nats_outbox (subject, payload) VALUES ('s.{kind}', 'x'); INSERT INTO nats_outbox (subject, payload) VALUES ('a b', 'x');) ],
			[ 1, q(SELECT nats_publish_outbox('s.{kind}', repeat('x', 1100000)); DELETE FROM nats_outbox_dead;) ] ] },
	wal => {
		settings => { 'nats_publish.outbox_storage' => 'wal' },
		work => [
			[ 8, q(BEGIN; SELECT count(nats_publish_outbox('s.{kind}.' || i % 50, i::text)) FROM generate_series(1, 100) i; COMMIT;) ],
			[ 100, q(SELECT nats_publish_outbox('s.{kind}', 'x', '{"A": "b"}');) ],
			[ 20, q(BEGIN; SELECT nats_publish_outbox('s.{kind}', 'x'); ROLLBACK;) ],
			# larger than what is decoded in memory, and than what waits there
			[ 1, q(BEGIN; SELECT count(nats_publish_outbox('s.{kind}', repeat('x', 5000))) FROM generate_series(1, 4000) i; COMMIT;) ],
			[ 1, q(SELECT nats_publish_outbox('s.{kind}', repeat('x', 1100000)); DELETE FROM nats_outbox_dead;) ],
			changes('changed_wal') ] },
	rows => { work => [ [ 3, q(CALL nats_publish_rows('kept_{kind}', restart => true, batch => 100);) ] ] },
	changes => { work => [ map { changes($_) } tables() ] },
	large => {
		fails => [ '54000' ],
		work => [
			[ 5, q(SELECT nats_publish('s.{kind}', repeat('x', 500000));) ],
			[ 2, q(BEGIN; SELECT count(nats_publish_async('s.{kind}', repeat('x', 300000))) FROM generate_series(1, 10); COMMIT;) ],
			[ 2, q(BEGIN; SELECT count(nats_publish_on_commit('s.{kind}', repeat('x', 300000))) FROM generate_series(1, 10); COMMIT;) ],
			[ 1, q(BEGIN; SELECT count(nats_publish_on_commit('s.{kind}', repeat('x', 300000))) FROM generate_series(1, 50); ROLLBACK;) ],
			[ 3, q(SELECT nats_publish('s.{kind}', repeat('x', 1100000)); SELECT nats_publish_async('s.{kind}', repeat('x', 1100000));
				SELECT nats_publish_on_commit('s.{kind}', repeat('x', 1100000));) ] ] },
	spill => {
		settings => { work_mem => '64kB' },
		work => [
			[ 1, q(BEGIN; SELECT count(nats_publish_on_commit('s.{kind}', lpad(i::text, 128))) FROM generate_series(1, 8000) i; COMMIT;) ],
			[ 2, q(BEGIN; SELECT count(nats_publish_on_commit('s.{kind}', lpad(i::text, 128))) FROM generate_series(1, 8000) i; ROLLBACK;) ],
			[ 1, q(BEGIN; SELECT nats_publish_on_commit('s.{kind}', 'x'); SAVEPOINT a;
				SELECT count(nats_publish_on_commit('s.{kind}', lpad(i::text, 128))) FROM generate_series(1, 8000) i; ROLLBACK TO a; COMMIT;) ],
			[ 1, q(BEGIN; SELECT count(nats_publish_async('s.{kind}', i::text)) FROM generate_series(1, 8000) i; SELECT nats_flush();
				SELECT count(seq) FROM nats_futures(); COMMIT;) ],
			[ 1, q(BEGIN; SELECT count(nats_publish_on_commit('s.{kind}', lpad(i::text, 128))) FROM generate_series(1, 8000) i; SELECT 1/0; COMMIT;) ] ],
		fails => [ '22012' ] },
	failing => {
		fails => [ qw(0A000 22004 22012 22023 23505 40001 42704 53000 53400 57014) ],
		work => [
			[ 1, q(SELECT nats_publish('nowhere.a', 'x');) ],
			[ 60, q(SELECT nats_publish('s.a b', 'x'); SELECT nats_publish(NULL, 'x'); SELECT nats_publish_async('s.{kind}', 'x', '{"A": null}');) ],
			[ 60, q(SELECT nats_publish('s.{kind}', 'x', expect_last_seq => 1); SELECT nats_publish_async('s.{kind}', 'x', expect_last_seq => 1);) ],
			[ 60, q(SELECT nats_publish_on_commit('full.a', 'x'); SELECT nats_publish_async('full.a', 'x');) ],
			[ 1, q(BEGIN; INSERT INTO t VALUES (1); SELECT nats_publish_async('s.{kind}', 'x', expect_stream => 'NO'); COMMIT;) ],
			[ 60, q(BEGIN; SELECT nats_publish_async('s.{kind}', 'x'); SELECT 1/0; COMMIT;) ],
			[ 60, q(BEGIN; SELECT nats_publish_on_commit('s.{kind}', 'x'); INSERT INTO deferred VALUES (1), (1); COMMIT;) ],
			[ 60, q(BEGIN; SAVEPOINT a; SELECT nats_publish('full.a', 'x'); ROLLBACK TO a; SAVEPOINT b; SELECT nats_publish_async('full.a', 'x');
				ROLLBACK TO b; SELECT nats_publish_async('s.{kind}', 'x'); COMMIT;) ],
			[ 5, q(BEGIN; SELECT nats_publish_on_commit('s.{kind}', 'x'); PREPARE TRANSACTION '{kind}';
				BEGIN; SELECT nats_publish_async('s.{kind}', 'x'); PREPARE TRANSACTION '{kind}'; COMMIT PREPARED '{kind}';) ],
			[ 2, q(DO $$ BEGIN FOR i IN 1 .. 50 LOOP BEGIN PERFORM nats_publish_async('full.a', 'x'); RAISE 'x'; EXCEPTION WHEN others THEN NULL; END;
				BEGIN PERFORM nats_publish('full.a', 'x'); EXCEPTION WHEN others THEN NULL; END; END LOOP; END $$;) ],
			[ 2, q(SET nats_publish.max_pending = 10; SET nats_publish.on_full = error; SELECT count(nats_publish_async('s.{kind}', 'x')) FROM generate_series(1, 10000);
				RESET nats_publish.max_pending; RESET nats_publish.on_full;) ],
			[ 2, q(SET statement_timeout = '20ms'; SELECT count(nats_publish_async('s.{kind}', 'x')) FROM generate_series(1, 1000000);
				SELECT count(nats_publish_on_commit('s.{kind}', 'x')) FROM generate_series(1, 1000000);
				SELECT count(nats_publish('s.{kind}', 'x')) FROM generate_series(1, 1000000); RESET statement_timeout;) ] ] },
	connections => {
		fails => [ '58000' ],
		work => [
			[ 5, $FOREIGN_SERVER ],
			[ 5, q(SELECT nats_disconnect(); SELECT nats_publish('s.{kind}', 'x'); SELECT nats_publish_async('s.{kind}', 'x');) ],
			[ 5, q(SET nats_publish.url = 'nats://127.0.0.1:1,nats://127.0.0.1:2'; SELECT nats_publish('s.{kind}', 'x');
				RESET nats_publish.url; SELECT nats_publish('s.{kind}', 'x');) ],
			[ 5, q(SET nats_publish.publishing = off; SELECT nats_publish('s.{kind}', 'x'), nats_publish_on_commit('s.{kind}', 'x'), nats_publish_outbox('s.{kind}', 'x');
				SET nats_publish.publishing = dry_run; SELECT nats_publish_async('s.{kind}', 'x'); RESET nats_publish.publishing;) ],
			[ 3, q(SELECT nats_server_info(); SELECT nats_stream_info('S'); SELECT nats_explain('s.{kind}', 'x');) ],
			[ 1, q(SELECT nats_check('s.{kind}'); SELECT count(*) FROM nats_publish_stats; SELECT count(*) FROM nats_publish_activity;) ] ] });

sub load_kinds { return ((sort keys %KINDS), 'mixed'); }

sub load_tables
{
	my $sql = q(CREATE TABLE t (i int); CREATE TABLE deferred (i int UNIQUE DEFERRABLE INITIALLY DEFERRED);
		CREATE TABLE changed_wal (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text);
		ALTER TABLE changed_wal REPLICA IDENTITY FULL; SELECT nats_publish_table('changed_wal', 's.{table}.{op}', delivery => 'wal', old => true););
	foreach my $kind (qw(rows mixed))
	{
		$sql .= qq(CREATE TABLE kept_$kind AS SELECT id, 'note ' || id AS note FROM generate_series(1, 1000) AS id; ALTER TABLE kept_$kind ADD PRIMARY KEY (id);
			SELECT nats_publish_table('kept_$kind', 's.{table}.{op}');\n);
	}
	my $number = 0;
	foreach my $table (tables())
	{
		my ($level, $delivery) = $table =~ /^changed_([a-z]+)_(\w+)$/;
		my $format = $FORMATS[ $number++ % @FORMATS ];
		$sql .= qq(CREATE TABLE $table (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text);
			SELECT nats_publish_table('$table', 's.{table}.{op}', level => '$level', delivery => '$delivery', format => '$format', old => true);\n);
	}
	return $sql;
}

sub load_script
{
	my ($kind, $directory, $url) = @_;
	my $script = join "\n", $kind eq 'mixed' ? map { part($_, 1) } sort keys %KINDS : part($kind);
	# which connections they leave open does not depend on the order of their work
	$script .= "\nSELECT nats_disconnect(); SELECT nats_publish('s.{kind}', 'x');" if $kind =~ /^(?:mixed|connections)$/;
	$script =~ s/\{kind\}/$kind/g;
	$script =~ s/\{url\}/$url/g;
	return written("$directory/$kind.sql", $script);
}

# The work of a kind, each of it as often as it is said there, or so often.
sub part
{
	my ($kind, $times) = @_;
	my $settings = $KINDS{$kind}{settings} // {};
	return ((map { "SET $_ = '$settings->{$_}';" } sort keys %$settings),
		shuffle(map { ($_->[1]) x ($times // $_->[0]) } @{ $KINDS{$kind}{work} }),
		'RESET ALL;');
}

# Every fourth one leaves with an open transaction.
sub short_sessions_script
{
	my ($directory, $count) = @_;
	my @publish = map { "SELECT $_;" } q(nats_publish('s.short', 'x')), q(nats_publish_async('s.short', 'x')), q(nats_publish_on_commit('s.short', 'x'));
	push @publish, "BEGIN; $publish[1]";
	return written("$directory/short.sql", join "\n", map { "\\connect\n$publish[ $_ % @publish ]" } 1 .. $count);
}

sub written
{
	my ($path, $script) = @_;
	open(my $file, '>', $path) or die "$path: $!";
	print $file "\\o /dev/null\n$script\n\\o\n";
	close $file or die "$path: $!";
	return $path;
}

sub expected_failures
{
	my ($kind) = @_;
	return @{ $KINDS{$kind}{fails} // [] };
}

sub is_expected
{
	my ($kind, $sqlstate) = @_;
	my @kinds = $kind eq 'mixed' ? keys %KINDS : $kind;
	return $DISTURBED{$sqlstate} || grep { $_ eq $sqlstate } map { expected_failures($_) } @kinds;
}

1;
