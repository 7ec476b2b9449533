
# Logging in: each way to do it, by settings and by user mappings; what is wrong with it is told, and what is secret
# is told nowhere.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use NatsAccounts;
use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;

# What has a meaning in a URL, in JSON or in the configuration of nats-server, and a letter that is not ASCII.
my $ODD = '@:/% "\\' . "\xc3\xa9!";
my %password = (
	(map { $_ => "Secret-of-$_" } qw(app minimal wrong)),
	odd => "Secret-$ODD",
	token => "Secret-token-$ODD");

my $nkey = NatsAccounts->nkey;
my $stranger = NatsAccounts->nkey;

sub quoted { return '"' . ($_[0] =~ s/(["\\])/\\$1/gr) . '"'; }
sub encoded { return $_[0] =~ s/([^A-Za-z0-9])/sprintf '%%%02X', ord $1/ger; }

# Each user has an account and in it a stream that is called as the user is, so that its name tells who has published.
sub users
{
	my (%changed) = (%password, @_);
	my $user = sub { '{ user: ' . quoted($_[0]) . ', password: ' . quoted($changed{ $_[1] }) . ($_[2] // '') . ' }' };
	my $accounts = join "\n", map { "	$_->[0] { jetstream: enabled, users: [ $_->[1] ] }" } (
		[ APP => $user->('app', 'app') ],
		[ ODD => $user->($ODD, 'odd') ],
		[ NKEY => NatsAccounts->nkey_user($nkey) . ', { user: nkey_admin, password: a }' ],
		[ MINIMAL => $user->('minimal', 'minimal', ', permissions: { publish: ["t.>"], subscribe: ["_PG.>"] }') .
			', { user: minimal_admin, password: a }' ]);
	return "accounts {\n$accounts\n}";
}

sub has_stream
{
	my ($nats, $name, %as) = @_;
	utf8::decode($_) foreach grep { !ref } values %as;    # for JSON
	NatsClient->new(url => $nats->url, %as)->create_stream($name, ['t.>'], storage => 'file');
	return;
}

my $nats = NatsServer->new(name => 'users', jetstream => 1, config => users())->start;
has_stream($nats, 'APP', user => 'app', pass => $password{app});
has_stream($nats, 'ODD', user => $ODD, pass => $password{odd});
has_stream($nats, 'NKEY', user => 'nkey_admin', pass => 'a');
has_stream($nats, 'MINIMAL', user => 'minimal_admin', pass => 'a');
my $tokens = NatsServer->new(name => 'tokens', jetstream => 1, config => 'authorization { token: ' . quoted($password{token}) . ' }')->start;
has_stream($tokens, 'TOKEN', token => $password{token});

my $operator = NatsAccounts->new;
my %account = map { $_ => $operator->account($_) } qw(CREDS OTHER);
my $jwts = NatsServer->new(name => 'jwts', jetstream => 1, config => $operator->server_config)->start;
my %creds = map { $_ => $operator->user($account{$_}, 'app') } qw(CREDS OTHER);
has_stream($jwts, $_, creds => $creds{$_}) foreach qw(CREDS OTHER);
$creds{expired} = $operator->user($account{CREDS}, 'app', expires => time - 60);
$creds{stranger} = $operator->user($operator->nkey('account'), 'app');
$creds{forged} = { %{ $creds{CREDS} }, seed => $stranger->{seed} };

# All of them, as they are and as they are written elsewhere; and each password begins with this word.
my @secrets = (values %password, map { ($_->{seed}, $_->{jwt} // ()) } $nkey, $stranger, values %creds);
my $SECRET = join '|', 'Secret-', map { quotemeta } map { ($_, encoded($_), quoted($_)) } @secrets;
my $shown = '';    # all that errors have said

my $node = publishing_node('main', 'nats_publish.url' => $nats->url, log_statement => 'none', session_preload_libraries => 'nats_publish');
my $database = publishing_database($node, 'secure');
my $admin = PsqlSession->new($node, dbname => $database);
my $PUBLISH = q(SELECT (nats_publish('t.a', 'x')).stream);

my $directory = PostgreSQL::Test::Utils::tempdir('secrets');
my $last_file = 0;

sub write_file
{
	my ($path, $bytes) = @_;
	open(my $file, '>:raw', $path) or die "$path: $!";
	print $file $bytes;
	close $file or die "$path: $!";
	return $path;
}

sub file { return write_file("$directory/" . ++$last_file, $_[0]); }

# A session that has everything logged, with these settings (without their prefix); the server is that of users if not said.
sub session
{
	my (%settings) = @_;
	return PsqlSession->new($node,
		dbname => $database,
		settings => { log_min_messages => 'debug5', map { ("nats_publish.$_" => $settings{$_}) } keys %settings });
}

# Runs something; keeps what it says.
sub attempt
{
	my ($session, $sql) = @_;
	my $result = $session->run($sql // $PUBLISH);
	$shown .= "$result->{error}\n$result->{output}\n";
	return $result;
}

# The stream that a new session publishes to, or the SQLSTATE.
sub publishes
{
	my (%settings) = @_;
	my $result = attempt(session(%settings));
	return $result->{sqlstate} || $result->{output};
}

sub refused
{
	my ($what, $sqlstate, $reason, %settings) = @_;
	my $result = attempt(session(%settings));
	is($result->{sqlstate}, $sqlstate, "refused: $what");
	like($result->{error}, $reason, 'for a reason that is told');
	return $result;
}

sub connects { return $_[0]->value('SELECT connects FROM nats_session_stats()'); }

my $VIOLATION = qr/Authorization Violation/i;
my $EXPIRED = qr/Authorization Violation|Authentication Expired/i;

sub url_with { my ($server, $credentials) = @_; return $server->url =~ s{//}{//$credentials@}r; }

# In the URL

is(publishes(url => url_with($nats, "app:$password{app}")), 'APP', 'user and password in the URL');
is(publishes(url => url_with($nats, encoded($ODD) . ':' . encoded($password{odd}))), 'ODD', 'of odd bytes, with percent signs');
is(publishes(url => url_with($tokens, encoded($password{token}))), 'TOKEN', 'a token of them');
is(publishes(url => url_with($nats, 'app:wrong') . ',' . url_with($nats, "app:$password{app}")), 'APP', 'a URL that is refused is passed over');
refused('no credentials', '28000', $VIOLATION);
refused('a wrong password in the URL', '28000', $VIOLATION, url => url_with($nats, "app:$password{wrong}"));
refused('a wrong user in the URL', '28000', $VIOLATION, url => url_with($nats, "nobody:$password{app}"));
refused('a wrong token in the URL', '28000', $VIOLATION, url => url_with($tokens, $password{wrong}));
refused('a token where there are users', '28000', $VIOLATION, url => url_with($nats, $password{wrong}));

# In files, which the settings name. What is right is right however its lines end.

my %line_ends = ('no end of the line' => '', 'a line' => "\n", 'a line with CRLF' => "\r\n", 'empty lines' => "\n\n\n");
foreach my $end (sort keys %line_ends)
{
	is(publishes(username => 'app', password_file => file($password{app} . $line_ends{$end})), 'APP', "a password in a file: $end");
	is(publishes(username => $ODD, password_file => file($password{odd} . $line_ends{$end})), 'ODD', 'of odd bytes');
	is(publishes(url => $tokens->url, token_file => file($password{token} . $line_ends{$end})), 'TOKEN', 'a token');
	is(publishes(nkey_seed_file => file($nkey->{seed} . $line_ends{$end})), 'NKEY', 'an nkey seed');
	my $text = $operator->creds($creds{CREDS}) =~ s/\n+\z//r . $line_ends{$end};
	$text =~ s/\n/\r\n/g if $end =~ /CRLF/;
	is(publishes(url => $jwts->url, creds_file => file($text)), 'CREDS', 'credentials');
}

# Files that are no good, of each setting; the last argument is what else the session needs.
sub bad_files
{
	my ($setting, $contents, %settings) = @_;
	my @cases = (
		[ 'is missing', "$directory/none", qr/could not open $setting: No such file/ ],
		[ 'is a directory', $directory, qr/could not read $setting: Is a directory/ ],
		[ 'is empty', file(''), qr/$setting (is empty|has no)/ ],
		[ 'has an empty line', file("\r\n"), qr/$setting (is empty|has no)/ ],
		[ 'is too long', file('Secret-x' x 10_000), qr/$setting is too long/ ],
		map { [ $_->[0], file($_->[1]), $_->[2] ] } @$contents);
	unless ($> == 0)    # who may read everything
	{
		push @cases, [ 'is not readable', file('x'), qr/could not open $setting: Permission denied/ ];
		chmod 0, $cases[-1][1];
	}
	foreach my $case (@cases)
	{
		my ($what, $path, $reason) = @$case;
		my $result = refused("$setting $what", '58000', $reason, %settings, $setting => $path);
		unlike($result->{error}, qr/\Q$directory\E/, 'without the path');
	}
	return;
}

my $no_user = qr/nkey_seed_file has no seed of a NATS user in it/;
bad_files('password_file', [], username => 'app');
bad_files('token_file', [], url => $tokens->url);
bad_files('nkey_seed_file', [
		[ 'has something else', $password{app}, $no_user ],
		[ 'has the seed of an account', NatsAccounts->nkey('account')->{seed}, $no_user ],
		[ 'has a public key', $nkey->{public}, $no_user ],
		[ 'has a typing error', substr($nkey->{seed}, 0, 20) . ($nkey->{seed} =~ /^.{20}A/ ? 'B' : 'A') . substr($nkey->{seed}, 21), $no_user ],
		[ 'has two seeds', "$nkey->{seed}\n$nkey->{seed}", $no_user ] ]);
bad_files('creds_file', [
		[ 'has a seed alone', $nkey->{seed}, qr/creds_file has no NATS credentials in it/ ],
		[ 'has a JWT alone', $creds{CREDS}{jwt}, qr/creds_file has no NATS credentials in it/ ],
		[ 'ends too early', substr($operator->creds($creds{CREDS}), 0, -150), qr/creds_file has no NATS credentials in it/ ],
		[ 'has the seed of an account', $operator->creds({ %{ $creds{CREDS} }, seed => $account{CREDS}{seed} }),
			qr/creds_file has no seed of a NATS user in it/ ] ],
	url => $jwts->url);

is(publishes(username => 'app', password_file => file(" \t\n$password{app}")), 'APP', 'blanks before a password');
refused('a user name of 5,000 bytes', '58000', qr/user is too long/, username => 'x' x 5000, password_file => file('x'));
refused('a wrong password', '28000', $VIOLATION, username => 'app', password_file => file($password{wrong}));
refused('a user without a password', '28000', $VIOLATION, username => 'app');
refused('a wrong token', '28000', $VIOLATION, url => $tokens->url, token_file => file($password{wrong}));
refused('an nkey that the server does not know', '28000', $VIOLATION, nkey_seed_file => file($stranger->{seed}));
refused('an nkey where the server wants none', '28000', $VIOLATION, url => $tokens->url, nkey_seed_file => file($nkey->{seed}));
foreach my $bad (qw(expired stranger forged))
{
	refused("credentials: $bad", '28000', $EXPIRED, url => $jwts->url, creds_file => $operator->creds_file($creds{$bad}));
}

# The first of them that is set
my @seed = (nkey_seed_file => file($nkey->{seed}));
my @token = (token_file => file($password{token}));
my @user = (username => 'app', password_file => file($password{app}));
is(publishes(url => url_with($nats, "app:$password{app}"), @seed), 'APP', 'the URL goes before an nkey');
is(publishes(url => $jwts->url, creds_file => $operator->creds_file($creds{OTHER}), @seed, @token, @user), 'OTHER', 'credentials before all others');
is(publishes(@seed, @token, @user), 'NKEY', 'an nkey before a token');
is(publishes(url => $tokens->url, @token, @user), 'TOKEN', 'a token before a password');
is(publishes(@user, token_file => ''), 'APP', 'which comes last');

# Each connection signs another nonce. libnats 3.4.1 does not send a signature that begins with a zero byte, as one of
# 256 does.
my $signing = session(@seed);
is(attempt($signing, q(DO $$BEGIN FOR i IN 1 .. 1000 LOOP PERFORM nats_disconnect(), nats_server_info(); END LOOP; END$$))->{error}, '',
	'a thousand logins with an nkey');
is(connects($signing), '1000', 'each over a connection of its own');

# What changes in a file counts at the next connect.

my $path = file("$password{app}\n");
my $session = session(username => 'app', password_file => $path, ack_timeout => '500ms');
is($session->value($PUBLISH), 'APP', 'a password in a file');
write_file($path, $password{wrong});
is($session->value($PUBLISH) . connects($session), 'APP1', 'is not asked for while there is a connection');
$session->value('SELECT nats_disconnect()');
is(attempt($session)->{sqlstate}, '28000', 'but for the next one');
$nats->set_config(users(app => 'Secret-rotated'), reload => 1);
write_file($path, 'Secret-rotated');
is($session->value($PUBLISH), 'APP', 'so the session goes on with the new password');
$nats->set_config(users(), reload => 1);
# 58030 when the message was sent to a server that then ended the connection
ok(wait_for('28000', sub { attempt($session)->{sqlstate} eq '28000' }), 'a password that the server changes under a live session');
write_file($path, $password{app});
is($session->value($PUBLISH), 'APP', 'until it is in the file');

$path = file($operator->creds($creds{CREDS}));
$session = session(url => $jwts->url, creds_file => $path, ack_timeout => '500ms');
is($session->value($PUBLISH), 'CREDS', 'credentials in a file');
write_file($path, $operator->creds($creds{OTHER}));
is($session->value("SELECT nats_disconnect() \\g /dev/null\n$PUBLISH"), 'OTHER', 'and other ones');
write_file($path, $operator->creds($operator->user($account{CREDS}, 'app', expires => time + 3)));
is($session->value("SELECT nats_disconnect() \\g /dev/null\n$PUBLISH"), 'CREDS', 'credentials that will expire');
ok(wait_for('28000', sub { attempt($session)->{sqlstate} eq '28000' }), 'and do so under a live session');
write_file($path, $operator->creds($creds{CREDS}));
is($session->value($PUBLISH), 'CREDS', 'until there are new ones');

# Another file, or none
$session->value(q(SET nats_publish.creds_file = ''));
is(attempt($session)->{sqlstate}, '28000', 'a setting that is taken back counts at once');
$session->value("SET nats_publish.creds_file = '$path'");
is($session->value($PUBLISH), 'CREDS', 'as one that is made');

# In user mappings

$node->safe_psql($database, <<"END");
CREATE ROLE app LOGIN;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO PUBLIC;
CREATE SERVER users FOREIGN DATA WRAPPER nats OPTIONS (url '${\ $nats->url}');
CREATE SERVER tokens FOREIGN DATA WRAPPER nats OPTIONS (url '${\ $tokens->url}');
CREATE SERVER jwts FOREIGN DATA WRAPPER nats OPTIONS (url '${\ $jwts->url}');
GRANT USAGE ON FOREIGN SERVER users, tokens, jwts TO app;
ALTER ROLE app SET log_min_messages = debug5;
ALTER ROLE app SET nats_publish.ack_timeout = '2s';
END

sub literal { return "E'" . ($_[0] =~ s/(['\\])/\\$1/gr) . "'"; }

# Has a session of the ordinary role publish with these options of its mapping.
sub mapped
{
	my ($server, %options) = @_;
	return mapped_in($database, $server, %options);
}

sub mapped_in
{
	my ($dbname, $server, %options) = @_;
	my $options = join ', ', map { "$_ " . literal($options{$_}) } sort keys %options;
	my $mapping = "USER MAPPING FOR app SERVER $server";
	$node->safe_psql($dbname, "SET client_encoding = 'UTF8'; CREATE $mapping" . ($options ? " OPTIONS ($options)" : ''));
	my $ordinary = PsqlSession->new($node, user => 'app', dbname => $dbname, settings => { 'nats_publish.server' => $server });
	my $result = attempt($ordinary, q(SELECT (nats_publish('t.a', 'x'::text)).stream));
	$node->safe_psql($dbname, "DROP $mapping");
	return $result;
}

my $creds_text = $operator->creds($creds{CREDS});
foreach my $case (
	[ APP => users => (user => 'app', password => $password{app}) ],
	[ ODD => users => (user => $ODD, password => $password{odd}) ],
	[ NKEY => users => (nkey_seed => $nkey->{seed}) ],
	[ TOKEN => tokens => (token => $password{token}) ],
	[ CREDS => jwts => (creds => $creds_text) ],
	[ CREDS => jwts => (creds => $creds_text =~ s/\n/\r\n/gr) ],
	[ OTHER => jwts => (creds_file => $operator->creds_file($creds{OTHER})) ])
{
	my ($stream, $server, %options) = @$case;
	my $result = mapped($server, %options);
	is($result->{error} . $result->{output}, $stream, 'a mapping with ' . join ' and ', sort keys %options);
}
foreach my $case (
	[ 'no credentials' => users => () ],
	[ 'a wrong password' => users => (user => 'app', password => $password{wrong}) ],
	[ 'an unknown nkey' => users => (nkey_seed => $stranger->{seed}) ],
	[ 'a wrong token' => tokens => (token => $password{wrong}) ],
	[ 'expired credentials' => jwts => (creds => $operator->creds($creds{expired})) ],
	[ 'credentials of another operator' => jwts => (creds => $operator->creds($creds{stranger})) ])
{
	my ($what, $server, %options) = @$case;
	my $result = mapped($server, %options);
	is($result->{sqlstate}, '28000', "a mapping with $what");
	like($result->{error}, $EXPIRED, 'for the reason that the server tells');
	like($result->{error}, qr/127\.0\.0\.1/, 'and by which server');
}
my $result = mapped('jwts', creds_file => "$directory/none");
is($result->{sqlstate}, '58000', 'a mapping with a file that is missing');
like($result->{error}, qr/could not open creds_file: No such file/, 'is told');
unlike($result->{error}, qr/\Q$directory\E/, 'without its path');

# What is in the database's encoding is sent in UTF-8.
publishing_database($node, 'latin1', 'LATIN1');
$node->safe_psql('latin1', "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO PUBLIC;
	CREATE SERVER users FOREIGN DATA WRAPPER nats OPTIONS (url '${\ $nats->url}'); GRANT USAGE ON FOREIGN SERVER users TO app");
$result = mapped_in('latin1', 'users', user => $ODD, password => $password{odd});
is($result->{error} . $result->{output}, 'ODD', 'in a database of another encoding than UTF-8');

# The inbox of a user with few permissions

my @minimal = (username => 'minimal', password_file => file($password{minimal}));
$result = attempt(session(@minimal));
is($result->{sqlstate}, '42501', 'a user who may not subscribe to the inbox');
like($result->{error}, qr/Permissions Violation for Subscription to "_INBOX\.[^"]*"/i, 'which is named');
$session = session(@minimal, inbox_prefix => '_PG.db1');
is($session->value($PUBLISH), 'MINIMAL', 'with an inbox where it may');
is($session->run(q(BEGIN; SELECT count(nats_publish_async('t.a', 'x')) FROM generate_series(1, 100);
	SELECT nats_publish_on_commit('t.a', 'x'); SELECT nats_flush(); SELECT count(*) FROM nats_futures() WHERE status = 'acked'; COMMIT))->{error},
	'', 'all ways to publish work');
is($session->value('SELECT url FROM nats_server_info()'), $nats->url, 'so does nats_server_info()');
is(attempt($session, q(SELECT nats_publish('u.a', 'x')))->{sqlstate}, '42501', 'but not to other subjects');
is(attempt($session, q(SELECT nats_stream_info('MINIMAL')))->{sqlstate}, '42501', 'nor what needs other permissions');

my %minimal = (user => 'minimal', password => $password{minimal});
is(mapped('users', %minimal)->{sqlstate}, '42501', 'the same for a foreign server');
$node->safe_psql($database, q(ALTER DATABASE secure SET nats_publish.inbox_prefix = '_PG'));
is(mapped('users', %minimal)->{sqlstate}, '42501', 'for which the setting does not count');
$node->safe_psql($database, q(ALTER DATABASE secure RESET nats_publish.inbox_prefix; ALTER SERVER users OPTIONS (ADD inbox_prefix '_PG.db1')));
is(mapped('users', %minimal)->{output}, 'MINIMAL', 'but its own option');

# Nothing tells a secret.

$node->safe_psql($database,
	'CREATE USER MAPPING FOR app SERVER users OPTIONS (user ' . literal($ODD) . ', password ' . literal($password{odd}) . ')');
my $ordinary = PsqlSession->new($node, user => 'app', dbname => $database, settings => { 'nats_publish.server' => 'users' });
my $superuser = session(url => url_with($nats, "app:$password{app}"), creds_file => "$directory/none");
my @private = qw(url randomize creds_file username password_file token_file nkey_seed_file
	tls_ca_file tls_cert_file tls_key_file tls_handshake_first);
my @denied = ('42501') x @private;
is_deeply([ map { attempt($ordinary, "SHOW nats_publish.$_")->{sqlstate} } @private ], \@denied,
	'an ordinary role is not shown the settings with which to log in');
is_deeply([ map { attempt($ordinary, "SET nats_publish.$_ = 'on'")->{sqlstate} } @private ], \@denied, 'nor can it set them');
my $names = join ', ', map { "'nats_publish.$_'" } @private;
is($ordinary->value("SELECT count(*) FROM pg_settings WHERE name IN ($names)"), '0', 'nor does it see them in pg_settings');
is($superuser->value("SELECT count(*) FROM pg_settings WHERE name IN ($names)"), scalar @private, 'as a superuser does');
is($ordinary->value(q(SELECT (nats_publish('t.a', 'x'::text)).stream)), 'ODD', 'it publishes all the same');
is($superuser->value($PUBLISH), 'APP', 'and the superuser');
attempt($_, q(BEGIN; SELECT nats_server_info(), nats_session_stats(), nats_publish_async('t.b', 'x'::text);
	SELECT * FROM nats_futures(); COMMIT)) foreach $ordinary, $superuser;
attempt($superuser, 'SELECT string_agg(a::text, E$$\n$$) FROM pg_stat_activity a');
attempt($superuser, 'SELECT string_agg(r::text, E$$\n$$) FROM nats_relay r');
attempt($ordinary, 'SELECT * FROM pg_foreign_server');
attempt($ordinary, 'SELECT * FROM pg_settings');
cmp_ok(length $shown, '>', 20_000, 'what was shown');
unlike($shown, qr/$SECRET/, 'has no secret in it');

my $log = slurp_file($node->logfile);
cmp_ok(length $log, '>', 100_000, 'the log, with all that PostgreSQL can write');
unlike($log, qr/$SECRET/, 'has none either');

done_testing();
