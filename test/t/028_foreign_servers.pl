
# Foreign servers: where a message goes, and as whom, is decided by nats_publish.server and by the role that calls;
# in one transaction as well as over many, and from the next transaction on after each change of a server or user.

use strict;
use warnings FATAL => 'all';

use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FakeServer;
use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

# Each NATS user has an account of its own, so that the stream that has a message tells who has published it.
my @USERS = qw(app owner public nobody);

sub accounts
{
	my (%passwords) = @_;
	my $accounts = join "\n",
		map { sprintf '	%s { jetstream: enabled, users: [ { user: %s, password: "%s" } ] }', uc, $_, $passwords{$_} // "$_ secret" } @USERS;
	return "no_auth_user: nobody\naccounts {\n$accounts\n}";
}

my %servers = map { $_ => NatsServer->new(name => $_, jetstream => 1, config => accounts())->start } qw(one two);
my ($one, $two) = @servers{qw(one two)};
my %clients;
foreach my $server (sort keys %servers)
{
	foreach my $user (@USERS)
	{
		my $client = NatsClient->new(url => $servers{$server}->url, user => $user, pass => "$user secret");
		$client->create_stream('T', ['t.>'], storage => 'file');
		$clients{"$server.$user"} = $client;
	}
}

# Where the messages of a subject are: a server and a user for each.
sub places
{
	my ($subject) = @_;
	my @places;
	foreach my $place (sort keys %clients)
	{
		my $info = $clients{$place}->js('STREAM.INFO.T', { subjects_filter => "t.$subject" });
		push @places, ($place) x ($info->{state}{subjects}{"t.$subject"} // 0);
	}
	return join ' ', @places;
}

my $node = relay_node('main', 'nats_publish.url' => 'nats://127.0.0.1:1', log_statement => 'none');
my $app_password = q(OPTIONS (user 'app', password 'app secret'));
my $public_password = q(OPTIONS (user 'public', password 'public secret'));
$node->safe_psql('postgres', <<"END");
CREATE SERVER one FOREIGN DATA WRAPPER nats OPTIONS (url '${\ $one->url}');
CREATE SERVER two FOREIGN DATA WRAPPER nats OPTIONS (url '${\ $two->url}');
CREATE ROLE app LOGIN NOINHERIT;
CREATE ROLE owner;
CREATE ROLE other;
GRANT owner, other TO app;
GRANT USAGE ON FOREIGN SERVER one, two TO app, owner, other;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO PUBLIC;
CREATE USER MAPPING FOR app SERVER one $app_password;
CREATE USER MAPPING FOR app SERVER two $app_password;
CREATE USER MAPPING FOR owner SERVER one OPTIONS (user 'owner', password 'owner secret');
CREATE USER MAPPING FOR PUBLIC SERVER one $public_password;
CREATE FUNCTION publish_as_owner(subject text) RETURNS text SECURITY DEFINER LANGUAGE sql AS
	\$\$SELECT (nats_publish(subject, 'x')).stream\$\$;
CREATE FUNCTION hold_as_owner(subject text) RETURNS void SECURITY DEFINER LANGUAGE sql AS
	\$\$SELECT nats_publish_on_commit(subject, 'x')\$\$;
ALTER FUNCTION publish_as_owner OWNER TO owner;
ALTER FUNCTION hold_as_owner OWNER TO owner;
CREATE TABLE t (i int);
GRANT ALL ON t TO PUBLIC;
END

sub app_session
{
	my (%settings) = @_;
	return PsqlSession->new($node, user => 'app', settings => { 'nats_publish.server' => 'one', %settings });
}

my $admin = PsqlSession->new($node);
my $session = app_session();

# SELECTs whose results are of no interest.
sub calls { return join ' ', map { "SELECT $_ \\g /dev/null\n" } @_; }
sub publish { my ($from, $subject) = @_; return $from->value("SELECT (nats_publish('t.$subject', 'x')).stream"); }
sub sync { return map { "nats_publish('t.$_', 'x')" } @_; }
sub async { return map { "nats_publish_async('t.$_', 'x')" } @_; }
sub held { return map { "nats_publish_on_commit('t.$_', 'x')" } @_; }

# Runs a transaction of a row of t and of what is given, to its COMMIT.
sub transaction
{
	my ($from, @commands) = @_;
	$admin->value('TRUNCATE t');
	my $result = $from->run(join ' ', 'BEGIN; INSERT INTO t VALUES (1);', @commands, 'COMMIT');
	$from->run('ROLLBACK');
	return $result;
}

sub rows { return $admin->value('SELECT count(*) FROM t'); }

# How many connections a process has to a server: those whose inode is one of its descriptors.
sub established_connections
{
	my ($pid, $nats) = @_;
	my %own = map { (readlink($_) // '') =~ /^socket:\[(\d+)\]$/ ? ($1 => 1) : () } glob "/proc/$pid/fd/*";
	my $remote = sprintf '0100007F:%04X', $nats->port;
	return scalar grep { my @field = split; $field[2] eq $remote && $own{ $field[9] } } slurp_file('/proc/net/tcp') =~ /^ *(\d+: .*)$/mg;
}

# Who publishes

is(publish($session, 'mapping'), 'T', 'a role with a mapping');
is(places('mapping'), 'one.app', 'publishes as that user');
$session->value('SET ROLE other');
publish($session, 'public');
is(places('public'), 'one.public', 'after SET ROLE to one without: as the user of PUBLIC');
$session->value('SET nats_publish.server = two');
publish($session, 'nobody');
is(places('nobody'), 'two.nobody', 'on a server without any mapping for it: without credentials');
$session->value('SET ROLE owner; SET nats_publish.server = one');
publish($session, 'set_role');
is(places('set_role'), 'one.owner', 'as another role: as its user');
$session->value('RESET ROLE');
publish($session, 'reset_role');
is(places('reset_role'), 'one.app', 'and as the first one again');
is($session->value('SELECT connects, connections_lost FROM nats_session_stats()'), '4|0', 'over a connection of each');
is($session->value(q(SELECT publish_as_owner('t.definer'))), 'T', 'inside a SECURITY DEFINER function');
is(places('definer'), 'one.owner', 'as the user of its owner');
publish($session, 'after_definer');
is(places('after_definer'), 'one.app', 'and behind it as before');
$session->value(q(SET nats_publish.server = two));
is($session->sqlstate(q(SELECT publish_as_owner('t.definer_two'))), '', 'the server is that of the session');
is(places('definer_two'), 'two.nobody', 'in such a function too');
$admin->value(q(ALTER FUNCTION publish_as_owner SET nats_publish.server = 'one'));
$session->value(q(SELECT publish_as_owner('t.definer_set')));
is(places('definer_set'), 'one.owner', 'unless the function sets it');
publish($session, 'after_set');
is(places('after_set'), 'two.app', 'for itself');
$session->value(q(BEGIN; SET LOCAL nats_publish.server = one; SELECT nats_publish('t.local', 'x') \g /dev/null
	COMMIT; SELECT nats_publish('t.after_local', 'x') \g /dev/null
	));
is(places('local') . ' ' . places('after_local'), 'one.app two.app', 'SET LOCAL is for its transaction');
is($session->value('SELECT url FROM nats_server_info()'), $two->url, 'nats_server_info() tells of the server of the session');
$session->value('SET nats_publish.server = one');
is($session->value('SELECT url FROM nats_server_info()'), $one->url, 'and of the other one');
is($session->value(q(SELECT nats_stream_info('T') #>> '{config,name}')), 'T', 'requests go there too');
is($session->sqlstate(q(SET nats_publish.server = ''; SELECT nats_publish('t.settings', 'x'))), '58000', 'without it the settings count');
$session->value('SET nats_publish.server = one');

# Several in a transaction

my $result = transaction($session,
	calls(sync('mixed'), async('mixed'), held('mixed')), 'SET LOCAL nats_publish.server = two;',
	calls(sync('mixed'), async('mixed'), held('mixed')), 'SET LOCAL nats_publish.server = one; SET LOCAL ROLE owner;',
	calls(async('mixed'), held('mixed')), 'RESET ROLE; RESET nats_publish.server;');
is($result->{error}, '', 'a transaction that publishes to two servers, as two roles, in each way');
is(places('mixed'), 'one.app one.app one.app one.owner one.owner two.app two.app two.app', 'each message is where its call sent it');
is(rows(), 1, 'and the row is committed');

$session->value('BEGIN; SET nats_publish.server = one');
my $first = $session->value(q(SELECT nats_publish_async('t.future', 'x')));
$session->value('SET nats_publish.server = two');
my $second = $session->value(q(SELECT nats_publish_async('t.future', 'x')));
is($session->value("SELECT (nats_await($first)).stream, (nats_await($second)).stream"), 'T|T',
	'futures of two servers, awaited from one of them');
is($session->value(q(SELECT string_agg(subject || ' ' || status, ', ' ORDER BY future) FROM nats_futures())),
	't.future acked, t.future acked', 'nats_futures() has both');
$session->value('SELECT ' . join ', ', map { async('flushed') } 1 .. 3);
$session->value('SET nats_publish.server = one; SELECT ' . join ', ', map { async('flushed') } 1 .. 2);
is($session->value('SELECT nats_flush()'), '5', 'nats_flush() waits for all');
is($session->value(q(SELECT count(*), count(*) FILTER (WHERE status = 'acked') FROM nats_futures())), '7|7', 'and all are acknowledged');
$session->value('ROLLBACK');
is(places('flushed'), 'one.app one.app two.app two.app two.app', 'each where it belongs, also when the transaction is rolled back');
$session->value('SET nats_publish.server = one');

$result = transaction($session,
	calls(held('save_kept')), 'SAVEPOINT s; SET LOCAL nats_publish.server = two;', calls(held('save_gone'), async('save_async')),
	'ROLLBACK TO s;', calls(held('save_kept')), 'SAVEPOINT s2; SET LOCAL nats_publish.server = two;', calls(held('save_kept')),
	'RELEASE s2;', calls(held('save_kept')));
is($result->{error}, '', 'savepoints');
is(places('save_kept'), 'one.app one.app two.app two.app', 'the setting is that of the savepoint');
ok(wait_for('the message', sub { places('save_async') eq 'two.app' }),
	'what was sent in one that was rolled back is stored, and not waited for');
is(places('save_gone'), '', 'what was held in one that was rolled back is sent nowhere');

$result = transaction($session,
	calls(held('late')), 'SET ROLE other;', calls(held('late')), q(RESET ROLE; SET nats_publish.server = two;),
	calls(q(hold_as_owner('t.late'))), q(SET nats_publish.server = 'no such server'; SET ROLE owner;));
is($result->{error}, '', 'what is chosen after the calls does not matter at COMMIT');
is(places('late'), 'one.app one.public two.nobody', 'each goes to where its call has chosen');
$session->value('RESET ROLE; SET nats_publish.server = one');

$admin->value("CREATE SERVER short FOREIGN DATA WRAPPER nats OPTIONS (url '${\ $two->url}')");
$admin->value(q(SET nats_publish.server = short));
$result = transaction($admin, calls(held('dropped')), 'DROP SERVER short;');
is($result->{error}, '', 'a server that is dropped before the COMMIT');
is(places('dropped'), 'two.nobody', 'still gets what it was chosen for');
is($admin->sqlstate(q(SELECT nats_publish('t.gone', 'x'))), '42704', 'and nothing more');
$admin->value('RESET nats_publish.server');

my $atomic = 'SET LOCAL nats_publish.commit_batch = atomic; ' . calls(held('atomic'));
$result = transaction($session, $atomic, 'SET LOCAL nats_publish.server = two;', calls(held('atomic')));
is($result->{sqlstate}, '0A000', 'an atomic commit over two servers is not possible');
like($result->{error}, qr/must go out on one connection/, 'as it says');
is(places('atomic') . rows(), '0', 'nothing is stored or committed');
$result = transaction($session, $atomic, 'SET LOCAL ROLE owner;', calls(held('atomic')));
is($result->{sqlstate}, '0A000', 'nor one as two roles');
like($result->{error}, qr/must go out on one connection/, 'as it says');
is(places('atomic') . rows(), '0', 'nothing is stored or committed');

# One of them is down

my $to_both = calls(held('down')) . 'SET LOCAL nats_publish.server = two;' . calls(held('down'));
$two->stop;
$result = transaction($session, $to_both);
is($result->{sqlstate}, '58000', 'one of two servers is down at COMMIT');
like($result->{error}, qr/\Q${\ $two->url}\E/, 'which the error tells');
unlike($result->{error}, qr/\Q${\ $one->url}\E/, 'and nothing of the other one');
is(rows(), 0, 'nothing is committed');
is(publish($session, 'other_is_up'), 'T', 'the other server is there');
$two->start;
# what was connected to it before
$clients{"two.$_"} = NatsClient->new(url => $two->url, user => $_, pass => "$_ secret") foreach @USERS;
is(places('down'), '', 'nothing of it was sent to either');
$result = transaction($session, $to_both);
is($result->{error} . places('down'), 'one.app two.app', 'when it is up again, the same works');

my $bounded = app_session('nats_publish.commit_timeout' => '2s');
$bounded->value('SET nats_publish.server = two; ' . calls(sync('before')) . 'SET nats_publish.server = one; ' . calls(sync('before')));
$bounded->value('BEGIN; INSERT INTO t VALUES (1); ' . calls(async('stalled')));
wait_for('the first message', sub { places('stalled') eq 'one.app' });
$two->stall;
$bounded->value('SET LOCAL nats_publish.server = two; ' . calls(async('stalled_two')));
$result = $bounded->run('COMMIT');
is($result->{sqlstate}, '58030', 'one of two servers does not acknowledge');
like($result->{error}, qr/"t\.stalled_two"/, 'the error names the message');
unlike($result->{error}, qr/"t\.stalled"/, 'and not the one that is stored');
$two->resume;
is(places('stalled'), 'one.app', 'that one stays');
$bounded->close;

# Changes reach a session that is connected, at its next transaction.

publish($session, 'change');
is(places('change'), 'one.app', 'a session before any change');
$admin->value("ALTER SERVER one OPTIONS (SET url '${\ $two->url}')");
publish($session, 'new_url');
is(places('new_url'), 'two.app', 'another URL of the server');
$admin->value("ALTER SERVER one OPTIONS (SET url '${\ $one->url}')");
publish($session, 'old_url');
is(places('old_url'), 'one.app', 'and the old one again');
$admin->value(q(ALTER SERVER one OPTIONS (ADD inbox_prefix '_PG')));
is(publish($session, 'inbox'), 'T', 'another inbox');
$admin->value(q(ALTER SERVER one OPTIONS (DROP inbox_prefix)));

$admin->value(q(ALTER USER MAPPING FOR app SERVER one OPTIONS (SET user 'owner', SET password 'owner secret')));
publish($session, 'new_user');
is(places('new_user'), 'one.owner', 'another NATS user');
$admin->value(q(ALTER USER MAPPING FOR app SERVER one OPTIONS (SET user 'app', SET password 'app secret')));
publish($session, 'old_user');
is(places('old_user'), 'one.app', 'and the old one again');

$one->set_config(accounts(app => 'rotated secret'), reload => 1);
$session->value(q(SET nats_publish.ack_timeout = '500ms'));
# 58030 when the message was sent to a server that then ended the connection
ok(wait_for('28000', sub { $session->sqlstate(q(SELECT nats_publish('t.rotating', 'x'))) eq '28000' }),
	'a password that the server has changed');
$session->value('RESET nats_publish.ack_timeout');
$admin->value(q(ALTER USER MAPPING FOR app SERVER one OPTIONS (SET password 'rotated secret')));
is(publish($session, 'rotated'), 'T', 'until the mapping has it too');
$one->set_config(accounts(), reload => 1);
$admin->value(q(ALTER USER MAPPING FOR app SERVER one OPTIONS (SET password 'app secret')));
$clients{'one.app'} = NatsClient->new(url => $one->url, user => 'app', pass => 'app secret');
is(publish($session, 'rotated'), 'T', 'and back');
is(places('rotated'), 'one.app one.app', 'as the same user');

$admin->value('DROP USER MAPPING FOR app SERVER one');
publish($session, 'dropped_mapping');
is(places('dropped_mapping'), 'one.public', 'a mapping that is dropped leaves that of PUBLIC');
$admin->value('DROP USER MAPPING FOR PUBLIC SERVER one');
publish($session, 'dropped_public');
is(places('dropped_public'), 'one.nobody', 'when that is dropped too: no credentials');
$admin->value("CREATE USER MAPPING FOR app SERVER one $app_password; CREATE USER MAPPING FOR PUBLIC SERVER one $public_password");
publish($session, 'created_mapping');
is(places('created_mapping'), 'one.app', 'a mapping that is created');

$admin->value('REVOKE USAGE ON FOREIGN SERVER one FROM app');
$result = $session->run(q(SELECT nats_publish('t.revoked', 'x')));
is($result->{sqlstate}, '42501', 'USAGE that is revoked');
$admin->value('GRANT USAGE ON FOREIGN SERVER one TO app');
is(publish($session, 'granted'), 'T', 'and granted again');
is(places('revoked'), '', 'nothing was published meanwhile');

$admin->value('ALTER SERVER one RENAME TO uno');
is($session->sqlstate(q(SELECT nats_publish('t.renamed', 'x'))), '42704', 'a server of another name is not there');
$admin->value('ALTER SERVER uno RENAME TO one');
$admin->value("CREATE SERVER three FOREIGN DATA WRAPPER nats OPTIONS (url '${\ $one->url}'); GRANT USAGE ON FOREIGN SERVER three TO app");
$session->value('SET nats_publish.server = three');
publish($session, 'three');
is(places('three'), 'one.nobody', 'another server at the same URL is another one');
$admin->value('DROP SERVER three');
$result = $session->run(q(SELECT nats_publish('t.three', 'x')));
is($result->{sqlstate}, '42704', 'a server that is dropped');
like($result->{error}, qr/server "three" does not exist/, 'is not there');
$admin->value("CREATE SERVER three FOREIGN DATA WRAPPER nats OPTIONS (url '${\ $two->url}'); GRANT USAGE ON FOREIGN SERVER three TO app");
publish($session, 'three');
is(places('three'), 'one.nobody two.nobody', 'one that is created under its name');
$session->value('SET nats_publish.server = one');

# What is rolled back has been seen by its own transaction only.

$admin->value("CREATE USER MAPPING FOR CURRENT_USER SERVER $_ $app_password") foreach qw(one two);
$admin->value('SET nats_publish.server = one');
publish($admin, 'rollback');
$admin->value("BEGIN; ALTER SERVER one OPTIONS (SET url '${\ $two->url}'); " . calls(sync('rollback')) . 'ROLLBACK');
publish($admin, 'rollback');
is(places('rollback'), 'one.app one.app two.app', 'ALTER SERVER that is rolled back');
publish($session, 'unseen');
is(places('unseen'), 'one.app', 'is not seen by others');
$admin->value(q(BEGIN; SAVEPOINT s; ALTER USER MAPPING FOR CURRENT_USER SERVER one OPTIONS (SET user 'owner', SET password 'owner secret'); )
		. calls(sync('rollback_to')) . 'ROLLBACK TO s; ' . calls(sync('rollback_to')) . 'COMMIT');
is(places('rollback_to'), 'one.app one.owner', 'ALTER USER MAPPING, to a savepoint');
$admin->value('BEGIN; SET LOCAL ROLE other; ROLLBACK; ' . calls(sync('rolled_back_role')));
is(places('rolled_back_role'), 'one.app', 'SET ROLE');
$admin->value(q(BEGIN; SET nats_publish.server = two; ROLLBACK; ) . calls(sync('rolled_back_setting')));
is(places('rolled_back_setting'), 'one.app', 'SET nats_publish.server');
$admin->value('RESET nats_publish.server');

# Chosen for a role and for a database

$admin->value('ALTER ROLE app SET nats_publish.server = two; ALTER DATABASE postgres SET nats_publish.server = one');
my $chosen = PsqlSession->new($node, user => 'app');
publish($chosen, 'chosen_for_role');
is(places('chosen_for_role'), 'two.app', 'the server that is chosen for the role');
$admin->value('ALTER ROLE app RESET nats_publish.server');
$chosen->close;
$chosen = PsqlSession->new($node, user => 'app');
publish($chosen, 'chosen_for_database');
is(places('chosen_for_database'), 'one.app', 'else the one for the database');
$chosen->close;
$admin->value('ALTER DATABASE postgres RESET nats_publish.server');

# Sessions side by side

my @sessions = map { app_session('nats_publish.server' => $_->[0], role => $_->[1]) }
	map { my $server = $_; map { [ $server, $_ ] } qw(app owner other) } qw(one two);
$_->begin(q(SELECT count(nats_publish_async('t.parallel', 'x')) FROM generate_series(1, 100))) foreach @sessions;
is_deeply([ map { $_->finish->{error} } @sessions ], [ ('') x 6 ], 'six sessions at once, of three roles and two servers');
my %parallel;
$parallel{$_}++ foreach split / /, places('parallel');
is_deeply(\%parallel, { map({ ("one.$_" => 100) } qw(app owner public)), 'two.app' => 100, 'two.nobody' => 200 }, 'each publishes as its user');
$_->close foreach @sessions;

# More of them than a session has connections

$admin->value(join '; ', map { "CREATE ROLE r$_; GRANT USAGE ON FOREIGN SERVER one TO r$_; GRANT r$_ TO app" } 1 .. 70);
$admin->value("CREATE USER MAPPING FOR r$_ SERVER one $app_password") foreach grep { $_ % 3 == 0 } 1 .. 70;
sub user_of { return $_[0] % 3 == 0 ? 'one.app' : 'one.public'; }
my $many = app_session();
my $twice = join ' ', map { "SET ROLE r$_; " . calls(sync("many_$_")) } 1 .. 70, 1 .. 70;
is($many->run($twice)->{error}, '', 'seventy roles in one session, twice');
is(scalar(grep { places("many_$_") eq join ' ', (user_of($_)) x 2 } 1 .. 70), 70, 'all publish, each as its user');
cmp_ok($many->value(q(RESET ROLE; SELECT connects FROM nats_session_stats())), '>', 70, 'over connections that are given up for others');
cmp_ok(established_connections($many->pid, $one), '<=', 64, 'of which there are not more than 64 at once');
is($many->run('BEGIN; ' . join(' ', map { "SET ROLE r$_; " . calls(sync("together_$_")) } 1 .. 70) . 'COMMIT; RESET ROLE')->{error}, '',
	'in one transaction too, when nothing waits');
$result = transaction($many, map { "SET LOCAL ROLE r$_; " . calls(held("held_$_")) } 1 .. 70);
is($result->{sqlstate}, '54000', 'but not with messages that are held for the commit');
is(places('held_1') . rows(), '0', 'of which none is sent then');
is($many->run(join ' ', 'BEGIN;', (map { "SET LOCAL ROLE r$_; " . calls(held("few_$_")) } 1 .. 60), 'COMMIT')->{error}, '', 'sixty are possible');
is(scalar(grep { places("few_$_") eq user_of($_) } 1 .. 60), 60, 'and are published');
is($many->value('SELECT nats_disconnect()'), 't', 'nats_disconnect()');
is(established_connections($many->pid, $one), 0, 'closes all connections');
is(publish($many, 'after_many'), 'T', 'and the session goes on');
$many->close;

# More of them, and nobody acknowledges: what has messages on their way is not given up

$clients{"one.$_"}->create_stream('SILENT', ['silent.>'], no_ack => \1) foreach qw(app public);
my $TOO_MANY = qr/this session publishes over 64 connections at once already/;

# A transaction, not ended, in which sixty-four roles publish; all but those that are idle wait for an acknowledgment then.
sub fill
{
	my ($from, $options, @idle) = @_;
	my %is_idle = map { $_ => 1 } @idle;
	return $from->value('BEGIN; ' . join ' ',
		map { "SET LOCAL ROLE r$_; " . calls($is_idle{$_} ? sync('idle') : "nats_publish_async('silent.a', 'x'$options)") } 1 .. 64);
}
sub publish_as { my ($from, $role) = @_; return $from->run("SET ROLE r$role; SELECT (nats_publish('t.full', 'x')).stream"); }

{
	my $full = app_session();
	fill($full, '');
	$result = publish_as($full, 65);
	is($result->{sqlstate}, '54000', 'sixty-four connections wait for acknowledgments: there is no further one');
	like($result->{error}, $TOO_MANY, 'as the error says');
	is($full->value('ROLLBACK; SELECT count(*) FROM nats_futures()'), '0', 'ROLLBACK');
	is(publish_as($full, 65)->{output}, 'T', 'ends the wait: there is one');
	is(established_connections($full->pid, $one), 64, 'in the place of another');
	$full->close;
}
{
	my $full = app_session();
	my $connects = 'SELECT connects FROM nats_session_stats()';
	fill($full, '', 10, 20);
	is(publish_as($full, 65)->{output}, 'T', 'two of them wait for nothing: there is a further one');
	is(publish_as($full, 20)->{output} . $full->value($connects), 'T65', 'for which the first of the two is given up, not the second');
	is(publish_as($full, 10)->{output} . $full->value($connects), 'T66', 'until it is wanted again');
	is($full->value(q(SELECT status, count(*) FROM nats_futures() GROUP BY status)), 'pending|62', 'the others are still waited for');
	$full->close;
}
{
	# acknowledgments that have arrived, and were not read
	my $full = app_session();
	$result = $full->run('BEGIN; ' . join ' ', map { "SET LOCAL ROLE r$_; " . calls(async("unread_$_")) } 1 .. 70);
	is($result->{error}, '', 'seventy roles in one transaction that waits for nothing but its COMMIT');
	is($full->run('COMMIT')->{error}, '', 'which has all');
	is(scalar(grep { places("unread_$_") eq user_of($_) } 1 .. 70), 70, 'each from its user');
	$full->close;
}
{
	my $full = app_session('nats_publish.ack_timeout' => '60s', client_min_messages => 'error');
	fill($full, ', critical => false');
	$result = publish_as($full, 65);
	is($result->{sqlstate}, '54000', 'the same with messages that the transaction does not depend on');
	like($result->{error}, $TOO_MANY, 'as the error says');
	$full->value(q(ROLLBACK; SET nats_publish.ack_timeout = '300ms'));
	ok(eval { wait_for('a connection', sub { publish_as($full, 65)->{output} eq 'T' }, 20) }, 'until they are given up, after ack_timeout');
	$full->close;
}

# Triggers

$admin->value(q(CREATE TABLE orders (id int PRIMARY KEY); GRANT ALL ON orders TO PUBLIC;
	SELECT nats_publish_table('orders', 't.row.{id}') \g /dev/null
	CREATE TABLE sync_orders (id int PRIMARY KEY); GRANT ALL ON sync_orders TO PUBLIC;
	SELECT nats_publish_table('sync_orders', 't.row.{id}', delivery => 'sync', level => 'statement') \g /dev/null
	CREATE FUNCTION insert_as_owner(id int) RETURNS void SECURITY DEFINER LANGUAGE sql AS 'INSERT INTO orders VALUES (id)';
	ALTER FUNCTION insert_as_owner OWNER TO owner));
$session->value('INSERT INTO orders VALUES (1)');
is(places('row.1'), 'one.app', 'a change is published to the server of the session');
$session->value('SELECT insert_as_owner(2)');
is(places('row.2'), 'one.owner', 'as the role that makes it');
$session->value(q(BEGIN; SET LOCAL nats_publish.server = two; INSERT INTO orders VALUES (3);
	SET LOCAL nats_publish.server = one; INSERT INTO orders VALUES (4); COMMIT));
is(places('row.3') . ' ' . places('row.4'), 'two.app one.app', 'the one that is chosen when it is made');
$session->value('SET nats_publish.server = two; INSERT INTO sync_orders VALUES (5); SET nats_publish.server = one');
is(places('row.5'), 'two.app', 'with another delivery, too');
$result = $session->run(q(SET nats_publish.server = 'none'; INSERT INTO orders VALUES (6)));
is($result->{sqlstate}, '42704', 'a server that is not there keeps the change from being made');
is($session->value('SET nats_publish.server = one; SELECT count(*) FROM orders WHERE id = 6'), '0', 'as it does in a function');

# Dump and restore

my $dump = PostgreSQL::Test::Utils::tempdir('dump') . '/dump.sql';
IPC::Run::run([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', $dump ]) or die 'pg_dump';
$node->safe_psql('postgres', 'CREATE DATABASE restored TEMPLATE template0');
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('restored'), '-f', $dump ],
	'a dump with servers and mappings is restored');
my $restored = PsqlSession->new($node, user => 'app', dbname => 'restored', settings => { 'nats_publish.server' => 'one' });
$restored->value('INSERT INTO orders VALUES (7)');
is(places('row.7'), 'one.app', 'and publishes as what was dumped did');
is(places('row.1'), 'one.app', 'but not what it has restored');
$restored->value('SET ROLE other; SET nats_publish.server = two; INSERT INTO orders VALUES (8)');
is(places('row.8'), 'two.nobody', 'to the other server, too');
$restored->close;

# The relay: through the server of its database, as the superuser that PostgreSQL was made with

sub restart_relay
{
	my ($with) = @_;
	my $old = relay_pid($with);
	$with->value("SELECT pg_terminate_backend($old)");
	wait_for('another relay', sub { my $pid = relay_pid($with); $pid ne '' && $pid ne $old });
	return;
}

sub relayed
{
	my ($with, $subject) = @_;
	$with->value("SELECT nats_publish_outbox('t.$subject', 'x')");
	wait_until_drained($with);
	return places($subject);
}

$admin->value('ALTER DATABASE postgres SET nats_publish.server = one');
restart_relay($admin);
is(relayed($admin, 'relay_mapping'), 'one.app', 'the relay publishes through the server of its database, as its role');
ok(wait_for('its url', sub { relay_column($admin, 'url') eq $one->url }), 'which nats_relay tells');
$admin->value('DROP USER MAPPING FOR CURRENT_USER SERVER one');
is(relayed($admin, 'relay_public'), 'one.public', 'then as the user of PUBLIC');
$admin->value("ALTER SERVER one OPTIONS (SET url '${\ $two->url}')");
$admin->value('ALTER USER MAPPING FOR PUBLIC SERVER one OPTIONS (SET user $$owner$$, SET password $$owner secret$$)');
is(relayed($admin, 'relay_moved'), 'two.owner', 'as ALTER SERVER and ALTER USER MAPPING say, at once');
is($session->value(q(SET nats_publish.server = two; SELECT nats_publish_outbox('t.relay_any', 'x') > 0)), 't',
	'the server of who writes to the outbox');
wait_until_drained($admin);
is(places('relay_any'), 'two.owner', 'is not that of the relay');

my $other = publishing_database($node, 'other');
$node->safe_psql($other, "CREATE SERVER mine FOREIGN DATA WRAPPER nats OPTIONS (url '${\ $one->url}');
	CREATE USER MAPPING FOR CURRENT_USER SERVER mine $app_password; ALTER DATABASE $other SET nats_publish.server = mine");
reconfigure($node, 'nats_publish.relay_databases' => "postgres, $other");
my $elsewhere = PsqlSession->new($node, dbname => $other);
is(relayed($elsewhere, 'relay_other'), 'one.app', 'the relay of another database has its own server');

# It logs in outside of a transaction, where not all text can be converted.
publishing_database($node, 'latin1', 'LATIN1');
$node->safe_psql('latin1', "CREATE SERVER mine FOREIGN DATA WRAPPER nats OPTIONS (url '${\ $one->url}');
	CREATE USER MAPPING FOR CURRENT_USER SERVER mine $app_password; ALTER DATABASE latin1 SET nats_publish.server = mine");
reconfigure($node, 'nats_publish.relay_databases' => "postgres, $other, latin1");
my $latin = PsqlSession->new($node, dbname => 'latin1');
is(eval { relayed($latin, 'relay_latin1') } // relay_column($latin, 'last_error'), 'one.app', 'also in a database of another encoding than UTF-8');
$latin->close;

# It waits for one that is missing.
$elsewhere->value('ALTER SERVER mine RENAME TO hidden');
$elsewhere->value(q(SELECT nats_publish_outbox('t.relay_missing', 'x')));
wait_for_state($elsewhere, 'waiting');
like(relay_column($elsewhere, 'last_error'), qr/server "mine" does not exist/, 'a server that is missing is waited for');
$elsewhere->value('ALTER SERVER hidden RENAME TO mine');
reconfigure($node);
wait_until_drained($elsewhere, 60);
is(places('relay_missing'), 'one.app', 'until it is there');

# More connections than a backend may have open files

reconfigure($node, max_files_per_process => 64);
$node->restart;
my $few = app_session();
$result = $few->run(join ' ', map { "SET ROLE r$_; " . calls(sync("files_$_")) } 1 .. 40);
isnt($result->{sqlstate}, '', 'forty connections with 64 files');
is(places('files_1') . places('files_40'), 'two.owner', 'the first is possible, the last is not');
like($few->value('SELECT connects FROM nats_session_stats()'), qr/^\d$/, 'nor are ten');
like($few->error(q(SET ROLE r1; SELECT url FROM nats_server_info())), qr/too many open files/i, 'nor is there one to ask the server for its features');
is(publish($few, 'files_left'), 'T', 'but those that there are can be used');
is($few->value('SELECT nats_disconnect()'), 't', 'without them');
publish($few, 'files_again');
is(places('files_again'), 'two.owner', 'the next one is');

# The connection of a server that was dropped is closed when another one is used, and nothing is left of it.
{
	my $dropping = PsqlSession->new($node);
	my @left;
	foreach my $number (1 .. 6)
	{
		my $result = $dropping->run(qq(CREATE SERVER dropped FOREIGN DATA WRAPPER nats OPTIONS (url '${\ $one->url}');
			SET nats_publish.server = dropped; SELECT nats_publish('t.dropped', 'x');
			DROP SERVER dropped; SET nats_publish.server = two; SELECT nats_publish('t.dropped', 'x')));
		is($result->{error}, '', "dropped: $number");
		push @left, [ process_files($dropping->pid), $dropping->value('SELECT count(*) FROM pg_backend_memory_contexts') ];
	}
	is_deeply($left[5], $left[1], 'no file and no memory context is left of dropped servers');

	my $round = qq(CREATE SERVER dropped FOREIGN DATA WRAPPER nats OPTIONS (url '${\ $one->url}');
		CREATE USER MAPPING FOR CURRENT_USER SERVER dropped;
		SET nats_publish.server = dropped; SELECT nats_publish('t.dropped', 'x') \\g /dev/null
		DROP SERVER dropped CASCADE; SET nats_publish.server = two; SELECT nats_publish('t.dropped', 'x') \\g /dev/null
		);
	my $used = q(SELECT used_bytes FROM pg_backend_memory_contexts WHERE name = 'CacheMemoryContext');
	$dropping->value("SET client_min_messages = warning;\n" . "$round\n" x 50);
	my $before = $dropping->value($used);
	$dropping->value("$round\n" x 200);
	cmp_ok($dropping->value($used) - $before, '<', 200 * 50, "nor is it in PostgreSQL's caches that they are not there");
	$dropping->close;
}

# No secret is in any log but where somebody has written it into a statement.
unlike($_->log_content, qr/(app|owner|public|rotated) secret/, "the log of $_->{name} has no password") foreach $one, $two;
unlike(slurp_file($node->logfile), qr/^(?!.*STATEMENT:).*(app|owner|public|rotated) secret/m, 'nor has that of PostgreSQL');

# COMMIT waits once, however many servers do not answer

{
	my @silent = map { FakeServer->answering(sub { }) } 1 .. 3;
	my $session = PsqlSession->new($node, settings => { 'nats_publish.commit_timeout' => '5s' });
	$session->value(sprintf q(CREATE SERVER silent%d FOREIGN DATA WRAPPER nats OPTIONS (url '%s')), $_, $silent[ $_ - 1 ]->url) foreach 1 .. 3;
	$session->value('BEGIN');
	$session->value("SET nats_publish.server = 'silent$_'; SELECT nats_publish_async('t.silent', 'x')") foreach 1 .. 3;
	my $result = $session->run('COMMIT');
	is($result->{sqlstate}, '58030', 'three servers that do not answer');
	like($result->{error}, qr/3 messages/, 'are told of');
	cmp_ok($result->{seconds}, '<', 10, 'after the time of one');
}

done_testing();
