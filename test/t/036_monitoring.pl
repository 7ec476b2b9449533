
# The files in doc/: Prometheus gets what the views say, by a real exporter as a role with pg_monitor only; the alerts and
# the dashboard ask for nothing else; and the report is complete.

use strict;
use warnings FATAL => 'all';

use CPAN::Meta::YAML;
use FindBin;
use JSON::PP;

use PostgreSQL::Test::Utils;
use Test::More;

use Documentation;
use NatsClient;
use NatsServer;
use PrometheusExporter;
use PsqlSession;
use PublishTest;
use RelayTest;

my $DOC = "$FindBin::RealBin/../../doc";
my $JSON = JSON::PP->new->canonical;

my $nats = NatsServer->new(jetstream => 1, config => 'max_payload: 100000')->start;
NatsClient->new(url => $nats->url)->create_stream('M', ['m.>'], storage => 'file');
my $node = relay_node('main', 'nats_publish.url' => $nats->url, 'nats_publish.connect_timeout' => '500ms',
	wal_level => 'logical');
my $session = PsqlSession->new($node);
my $viewer = PsqlSession->new($node);		# has no connection to NATS
$viewer->value('CREATE ROLE monitor LOGIN IN ROLE pg_monitor');

# Is there shared memory for a library that is not preloaded?
my $has_registry = $viewer->value(q(SELECT current_setting('server_version_num')::int >= 170000)) eq 't';

# ---- Something to see: each counter that an alert asks for has moved

$session->value(q(SELECT nats_publish('m.sync', 'x', msg_id => 'twice') \g /dev/null)) foreach 1 .. 2;
$session->value(q(BEGIN; SELECT count(nats_publish_async('m.async', 'x')) FROM generate_series(1, 10) \g /dev/null
	COMMIT));
$session->value(q(BEGIN; SELECT count(nats_publish_on_commit('m.commit', 'xyz')) FROM generate_series(1, 3) \g /dev/null
	COMMIT));
is($session->sqlstate(q(SELECT nats_publish('nobody.takes', 'x'))), '42704', 'one fails');
$session->value(q(SET nats_publish.publishing = off; SELECT nats_publish('m.sync', 'x') \g /dev/null
	RESET nats_publish.publishing));
$nats->restart;
$session->value(q(SELECT nats_publish('m.sync', 'x') \g /dev/null));

my $billing = PsqlSession->new($node, dbname => publishing_database($node, 'billing'));
$billing->value(q(SELECT nats_publish_on_commit('m.billing', 'x') \g /dev/null));
$node->safe_psql('postgres', 'CREATE DATABASE bare');

$session->value(q(SELECT count(nats_publish_outbox('m.outbox', repeat('x', length)))
	FROM unnest('{1, 2, 200000}'::int[]) AS length \g /dev/null));
wait_until_drained($session);
my $refused = $session->value(q(SELECT nats_publish_outbox('nobody.takes', 'x')));
wait_for('a refusal', sub { outbox_column($session, 'next_attempt_at', $refused) });
$session->value('SELECT nats_wal_enable()');
$session->value(q(SET nats_publish.outbox_storage = wal; SELECT count(nats_publish_outbox('m.wal', 'x')) FROM generate_series(1, 7) \g /dev/null
	SELECT nats_publish_outbox('nobody.takes.wal', 'x') \g /dev/null
	RESET nats_publish.outbox_storage));
wait_for('the WAL to be read', sub { $session->value('SELECT published + diverted FROM nats_wal_relay') eq '8' });
$session->value('SELECT nats_relay_pause()');
wait_for('a paused relay of the WAL', sub { $session->value('SELECT state FROM nats_wal_relay') eq 'paused' });
wait_for_state($session, 'paused');
$session->value(q(SELECT count(nats_publish_outbox('m.outbox', 'x')) FROM generate_series(1, 4) \g /dev/null
	SELECT nats_publish_outbox('m.later', 'x', deliver_at => now() + interval '1 day') \g /dev/null));
$session->value(q(UPDATE nats_outbox SET created_at = created_at - interval '1 day' WHERE subject = 'm.later'));

my $stalled = PsqlSession->new($node, settings => { 'nats_publish.commit_timeout' => '10min' });
$stalled->value(q(SELECT nats_publish('m.stalled', 'x') \g /dev/null));
$nats->stall;
$stalled->begin(q(SELECT nats_publish_async('m.stalled', repeat('x', 1000)) \g /dev/null));
$stalled->wait_until_waiting;

# ---- What the exporter has to give

# What the columns of each query are used for.
my $queries = CPAN::Meta::YAML->read("$DOC/nats_publish_exporter.yaml")->[0];
my %usage;
foreach my $namespace (keys %$queries)
{
	my %metrics = map { %$_ } @{ $queries->{$namespace}{metrics} };
	$usage{$namespace} = { map { $_ => $metrics{$_}{usage} } keys %metrics };
}

# The same columns from the views, of the databases that the exporter sees them in.
my %views = (
	nats_publish => q(
		SELECT datname, mode, published AS published_total, acked AS acked_total, duplicates AS duplicates_total,
			failed AS failed_total, suppressed AS suppressed_total, retried AS retried_total, resent AS resent_total,
			bytes AS payload_bytes_total, connects AS connects_total, reconnects AS reconnects_total,
			commit_wait_max_ms / 1000 AS commit_wait_max_seconds, extract(epoch FROM last_error_at) AS last_error_timestamp_seconds,
			extract(epoch FROM stats_reset) AS stats_reset_timestamp_seconds
		FROM nats_publish_stats),
	nats_publish_activity => q(
		SELECT datname, state, count(*) AS backends, sum(pending) AS pending_messages, sum(pending_bytes) AS pending_bytes,
			coalesce(max(extract(epoch FROM oldest_pending)), 0) AS oldest_pending_seconds
		FROM nats_publish_activity GROUP BY 1, 2),
	nats_publish_relay => q(
		SELECT datname, CASE WHEN pid > 0 THEN 1 ELSE 0 END AS running, published AS published_total, failed AS failed_total,
			dead AS dead_total, extract(epoch FROM last_success) AS last_success_timestamp_seconds,
			extract(epoch FROM last_error_at) AS last_error_timestamp_seconds
		FROM nats_relay),
	nats_publish_relay_state => 'SELECT datname, state, 1 AS info FROM nats_relay',
	nats_publish_wal => q(
		SELECT datname, CASE WHEN pid > 0 THEN 1 ELSE 0 END AS running, CASE WHEN wal_status = 'lost' THEN 0 ELSE 1 END AS usable,
			behind_bytes, kept_bytes, safe_bytes, queued AS queued_messages, queued_bytes, decoded AS decoded_messages,
			published AS published_total, diverted AS diverted_total, forged AS forged_total,
			extract(epoch FROM last_success) AS last_success_timestamp_seconds,
			extract(epoch FROM last_error_at) AS last_error_timestamp_seconds
		FROM nats_wal_relay),
	nats_publish_wal_state => 'SELECT datname, state, 1 AS info FROM nats_wal_relay',
	nats_publish_outbox => q(
		SELECT 'postgres' AS datname, backlog, (SELECT count(*) FROM nats_outbox WHERE attempts > 0 OR last_error IS NOT NULL) AS retrying,
			(SELECT count(*) FROM nats_outbox_dead) AS dead, coalesce(extract(epoch FROM oldest_age), 0) AS oldest_age_seconds
		FROM nats_relay
		UNION ALL SELECT 'billing', 0, 0, 0, 0));

sub rows { return @{ $JSON->decode($viewer->value("SELECT json_agg(v) FROM ($_[0]) AS v")) }; }

# All samples by name and labels, as the views have them now.
sub expected
{
	my %samples;
	foreach my $namespace (keys %views)
	{
		my @labels = sort grep { $usage{$namespace}{$_} eq 'LABEL' } keys %{ $usage{$namespace} };
		foreach my $row (rows($views{$namespace}))
		{
			my $labels = join ',', map { "$_=" . delete $row->{$_} } @labels;
			$samples{"${namespace}_$_"}{$labels} = $row->{$_} // 'NaN' foreach keys %$row;
		}
	}
	return (%samples, expected_histograms());
}

sub expected_histograms
{
	my (%samples, %sum);
	my $name = 'nats_publish_latency_seconds';
	foreach my $row (rows(q(SELECT h.*, sum_ms, l.count AS total
		FROM nats_publish_histogram h JOIN nats_publish_latency l USING (datname, mode, measure)
		WHERE l.count > 0 ORDER BY to_ms)))
	{
		my ($before, $after) = ("datname=$row->{datname}", "measure=$row->{measure},mode=$row->{mode}");
		# JSON has no infinity
		my $le = $row->{to_ms} eq 'Infinity' ? '+Inf' : 0 + sprintf('%.9g', $row->{to_ms} / 1000);
		$sum{"$before,$after"} += $row->{count};
		$samples{"${name}_bucket"}{"$before,le=$le,$after"} = $sum{"$before,$after"};
		$samples{"${name}_count"}{"$before,$after"} = $row->{total};
		$samples{"${name}_sum"}{"$before,$after"} = $row->{sum_ms} / 1000;
	}
	return %samples;
}

# What is not as the views were before the scrape or after it: ages grow meanwhile, how far behind the WAL is goes up and down
# (any session of PostgreSQL's own writes some), all else stands still.
sub differences
{
	my ($before, $got, $after) = @_;
	my @found;
	foreach my $name (sort keys %{ { %$before, %$got } })
	{
		foreach my $labels (sort keys %{ { %{ $before->{$name} // {} }, %{ $got->{$name} // {} } } })
		{
			my ($low, $value, $high) = map { $_->{$name}{$labels} // 'missing' } $before, $got, $after;
			next if $low eq $value;
			next if $name eq 'nats_publish_wal_behind_bytes' && !grep { !/^\d+$/ } $low, $value, $high;
			next unless grep { !/^[\d.]+(e[-+]?\d+)?$/ } $low, $value, $high or $value < $low - 1e-6 or $value > $high + 1e-6;
			push @found, "$name\{$labels}: $low, then $value, then $high";
		}
	}
	return join "\n", @found;
}

my $exporter = PrometheusExporter->new($node, queries => "$DOC/nats_publish_exporter.yaml", user => 'monitor',
	options => ['--auto-discover-databases']);
my %before = expected();
my $scrape = $exporter->scrape;
my %after = expected();
my %samples = map { /^nats_publish/ ? ($_ => $scrape->{samples}{$_}) : () } keys %{ $scrape->{samples} };

is($scrape->{status}, 200, 'the exporter is scraped') or diag($scrape->{content});
is($scrape->{samples}{pg_exporter_last_scrape_error}{''}, 0, 'without an error') or diag($exporter->log_content);
is(differences(\%before, \%samples, \%after), '', 'every metric has the value that the views have, and there is no other');

my %types;
foreach my $namespace (keys %usage)
{
	$types{"${namespace}_$_"} = lc $usage{$namespace}{$_} foreach grep { $usage{$namespace}{$_} ne 'LABEL' } keys %{ $usage{$namespace} };
}
is_deeply({ map { /^nats_publish/ ? ($_ => $scrape->{types}{$_}) : () } keys %{ $scrape->{types} } }, \%types,
	'each metric of the file is there, and of its type');
is_deeply([ grep { ($types{$_} eq 'counter') != /_total$/ } sort keys %types ], [], 'counters end in _total, and nothing else does');

# What was done above, so that the views can't agree with the exporter on nothing.
my %done = (
	'nats_publish_duplicates_total datname=postgres,mode=sync' => 1,
	'nats_publish_failed_total datname=postgres,mode=sync' => 1,
	'nats_publish_suppressed_total datname=postgres,mode=sync' => 1,
	'nats_publish_reconnects_total datname=postgres,mode=sync' => 1,
	'nats_publish_acked_total datname=postgres,mode=async' => 10,
	'nats_publish_payload_bytes_total datname=postgres,mode=on_commit' => 9,
	'nats_publish_acked_total datname=billing,mode=on_commit' => 1,
	'nats_publish_acked_total datname=postgres,mode=outbox' => 9,
	'nats_publish_latency_seconds_count datname=postgres,measure=commit_wait,mode=on_commit' => 1,
	'nats_publish_latency_seconds_bucket datname=postgres,le=+Inf,measure=ack,mode=on_commit' => 3,
	'nats_publish_activity_backends datname=postgres,state=waiting' => 1,
	'nats_publish_activity_pending_messages datname=postgres,state=waiting' => 1,
	'nats_publish_relay_running datname=postgres' => 1,
	'nats_publish_relay_state_info datname=postgres,state=paused' => 1,
	'nats_publish_relay_published_total datname=postgres' => 2,
	'nats_publish_wal_running datname=postgres' => 1,
	'nats_publish_wal_usable datname=postgres' => 1,
	'nats_publish_wal_published_total datname=postgres' => 7,
	'nats_publish_wal_diverted_total datname=postgres' => 1,
	'nats_publish_wal_state_info datname=postgres,state=paused' => 1,
	'nats_publish_outbox_backlog datname=postgres' => 6,
	'nats_publish_outbox_retrying datname=postgres' => 2,
	'nats_publish_outbox_dead datname=postgres' => 1,
	'nats_publish_outbox_backlog datname=billing' => 0);
foreach my $what (sort keys %done)
{
	my ($name, $labels) = split / /, $what;
	is($samples{$name}{$labels}, $done{$what}, $what);
}
cmp_ok($samples{nats_publish_activity_pending_bytes}{'datname=postgres,state=waiting'}, '>', 1000, 'bytes are pending');
cmp_ok($samples{nats_publish_activity_oldest_pending_seconds}{'datname=postgres,state=waiting'}, '>', 0, 'the message has waited');
cmp_ok($samples{nats_publish_outbox_oldest_age_seconds}{'datname=postgres'}, '>', 0, 'and the one in the outbox');
$exporter->stop;
$nats->resume;
is($stalled->finish->{error}, '', 'the server goes on');

# doc/operations.md names metrics, too, in the second column of its table.
my ($table) = page('doc/operations.md') =~ /^## What to alert on\n(.*?)^##/ms;
my @named = map { /(nats_publish_\w+)/g } $table =~ /^\|[^|]*\|([^|]*)\|/mg;
cmp_ok(scalar @named, '>', 8, 'doc/operations.md names metrics');
is_deeply([ grep { !$samples{$_} && !$samples{"${_}_bucket"} } @named ], [], 'that there are');

# ---- It is silent where there is nothing to see

# The metrics, and whether the exporter is content.
sub seen
{
	my ($cluster, $dbname) = @_;
	my $other = PrometheusExporter->new($cluster, queries => "$DOC/nats_publish_exporter.yaml", user => 'monitor',
		dbname => $dbname);
	my $got = $other->scrape;
	$other->stop;
	is($got->{samples}{pg_exporter_last_scrape_error}{''}, 0, "$dbname: no error") or diag($other->log_content);
	return { map { $_ => 1 } grep { /^nats_publish/ } keys %{ $got->{samples} } };
}

is_deeply(seen($node, 'bare'), {}, 'no metric from a database without the extension');
$viewer->value('CREATE DATABASE elsewhere');
$node->safe_psql('elsewhere', q(CREATE SCHEMA "Odd name"; GRANT USAGE ON SCHEMA "Odd name" TO pg_monitor;
	CREATE EXTENSION nats_publish SCHEMA "Odd name"));
is_deeply(seen($node, 'elsewhere'), { map { $_ => 1 } grep { !/^nats_publish_wal/ } keys %samples },
	'all from one with the extension in any schema, but those of the WAL, which is not published there');

my $plain = publishing_node('plain', 'nats_publish.url' => $nats->url);
$plain->safe_psql('postgres', q(CREATE ROLE monitor LOGIN IN ROLE pg_monitor; SELECT nats_publish('m.plain', 'x')));
my $seen = seen($plain, 'postgres');
ok($seen->{nats_publish_outbox_backlog}, 'the outbox is seen without shared_preload_libraries');
is($seen->{nats_publish_acked_total} // 0, $has_registry ? 1 : 0, 'statistics as the version can');
$plain->stop;

# ---- Prometheus understands the alerts, and the dashboard's expressions

my $dir = PostgreSQL::Test::Utils::tempdir('promtool');
my $files = 0;

# What promtool has against a file; the content of one is good YAML as JSON.
sub promtool
{
	my ($command, $file) = @_;
	if (ref $file)
	{
		my $content = $JSON->encode($file);
		$file = "$dir/" . ++$files . '.yaml';
		append_to_file($file, $content);
	}
	my $output = '';
	my $ok = IPC::Run::run([ 'promtool', split(/ /, $command), $file ], '>', \$output, '2>&1');
	return $ok ? '' : "$output: $file";
}

sub check_rules { return promtool('check rules', { groups => [ { name => 'expressions', rules => [@_] } ] }); }

my $alerts = CPAN::Meta::YAML->read("$DOC/nats_publish_alerts.yaml")->[0];
my @rules = map { @{ $_->{rules} } } @{ $alerts->{groups} };
my $dashboard = $JSON->decode(slurp_file("$DOC/nats_publish_dashboard.json"));
my @panels = map { ($_, @{ $_->{panels} // [] }) } @{ $dashboard->{panels} };
my @targets = map { @{ $_->{targets} // [] } } @panels;
my @variables = grep { $_->{type} eq 'query' } @{ $dashboard->{templating}{list} };

my %ids;
$ids{ $_->{id} }++ foreach @panels;
is_deeply([ grep { $ids{$_} != 1 } keys %ids ], [], 'the panels have ids of their own');
is_deeply([ map { $_->{title} } grep { $_->{type} eq 'row' } @panels ],
	[ 'Rates', 'Latency', 'Errors', 'Backends', 'Outbox and relay', 'WAL' ], 'they are in rows');
is_deeply([ map { $_->{name} } @{ $dashboard->{templating}{list} } ], [ 'datasource', 'instance', 'datname', 'mode' ],
	'the variables');
is_deeply([ grep { ($_->{datasource}{uid} // '') ne '${datasource}' } @targets, @variables, grep { $_->{type} ne 'row' } @panels ], [],
	'all ask the chosen data source');

sub of_variable
{
	my ($variable) = @_;
	return $variable->{query}{query} =~ /^label_values\((.*), (?:instance|datname|mode)\)$/ ? $1 : "no label: $variable->{name}";
}

my @expressions = ((map { $_->{expr} } @rules, @targets), (map { of_variable($_) } @variables));
cmp_ok(scalar @expressions, '>', 40, 'there are expressions');

# The labels that each metric was scraped with; Prometheus adds the exporter's address.
my %known;
foreach my $name (keys %samples)
{
	$known{$name} = { map { $_ => 1 } 'instance', map { /(\w+)=/g } keys %{ $samples{$name} } };
}

# Names in an expression that are no metrics of these, or no labels of them.
sub unknown_names
{
	my ($expression) = @_;
	$expression =~ s/"[^"]*"|\[[^\]]*\]//g;
	my @labels = map { /(\w+)/g } $expression =~ /\b(?:by|without) \(([^)]*)\)/g, $expression =~ /\{([^}]*)\}/g;
	$expression =~ s/\{[^}]*\}|\b(by|without) \([^)]*\)|\band\b//g;
	my @metrics = $expression =~ /\b([a-z_]\w*)\b(?!\s*\()/g;
	return 'no metric' unless @metrics;
	my @unknown = grep { !$known{$_} } @metrics;
	foreach my $label (@labels)
	{
		push @unknown, $label unless grep { $known{$_}{$label} } @metrics;
	}
	return join ' ', @unknown;
}

is(unknown_names($_), '', 'is known: ' . s/\s+/ /gr) foreach @expressions;
s/\$__rate_interval/5m/g, s/\$\w+/.*/g foreach @expressions;
is(check_rules(map { { record => "expression:$_", expr => $expressions[$_] } } 0 .. $#expressions), '', 'all of them parse');
isnt(check_rules({ record => 'bad', expr => 'rate(a)' }), '', 'as one with an error would not');
is(promtool('check rules', "$DOC/nats_publish_alerts.yaml"), '', 'the alerts are rules');

sub bucket
{
	my ($measure, $le, @values) = @_;
	return "_latency_seconds_bucket{measure=\"$measure\",mode=\"async\",datname=\"%s\",le=\"$le\"}" => \@values;
}

# What makes each alert fire for database "bad" after half an hour and not for "good", a value a minute.
my %series = (
	NatsPublishFailures => { '_failed_total{mode="async",datname="%s"}' => [ '0+0x27 1+0x5', '7+0x60' ],
		'_failed_total{mode="outbox",datname="%s"}' => [ '0+0x60', '0+1x60' ] },
	NatsPublishCommitSlow => { bucket('commit_wait', '0.262144', '0+90x60', '0+100x60'),
		bucket('commit_wait', '1.048576', '0+100x60', '0+100x60'), bucket('commit_wait', '+Inf', '0+100x60', '0+100x60'),
		bucket('ack', '0.262144', '0+90x60', '0+90x60'),
		bucket('ack', '1.048576', '0+100x60', '0+100x60'), bucket('ack', '+Inf', '0+100x60', '0+100x60') },
	NatsPublishOldPending => { '_activity_oldest_pending_seconds{state="waiting",datname="%s"}' => [ '0+0x27 40+60x5', '0+0x28 5+0x60' ] },
	NatsPublishReconnects => { '_reconnects_total{mode="sync",datname="%s"}' => [ '0+0x20 0+4x10', '0+0x20 20+0x10' ],
		'_activity_backends{state="connected",datname="%s"}' => [ '10+0x60', '10+0x60' ] },
	NatsPublishSwitchedOff => { '_suppressed_total{mode="sync",datname="%s"}' => [ '0+0x20 5+0x20', '5+0x60' ] },
	NatsRelayNotRunning => { '_relay_running{datname="%s"}' => [ '1+0x27 0+0x5', '1+0x28 0 1+0x20' ] },
	NatsRelayHeldUp => { '_relay_state_info{state="waiting",datname="%s"}' => [ '_x20 1+0x4 _x20', '_x28 1+0x20' ],
		'_relay_state_info{state="paused",datname="%s"}' => [ '_x25 1+0x20', '_x60' ],
		'_relay_state_info{state="idle",datname="%s"}' => [ '1+0x19 _x30', '1+0x27 _x30' ] },
	NatsOutboxOld => { '_outbox_oldest_age_seconds{datname="%s"}' => [ '0+0x25 50+60x10', '0+0x28 50+60x10' ] },
	NatsOutboxGrowing => { '_outbox_backlog{datname="%s"}' => [ '0+300x60', '20000-300x60' ] },
	NatsWalSlotLost => { '_wal_usable{datname="%s"}' => [ '1+0x29 0+0x5', '1+0x60' ] },
	NatsWalNotRunning => { '_wal_running{datname="%s"}' => [ '1+0x27 0+0x5', '1+0x28 0 1+0x20' ] },
	NatsWalHeldUp => { '_wal_state_info{state="waiting",datname="%s"}' => [ '_x20 1+0x4 _x20', '_x28 1+0x20' ],
		'_wal_state_info{state="diverting",datname="%s"}' => [ '_x25 1+0x20', '_x60' ],
		'_wal_state_info{state="idle",datname="%s"}' => [ '1+0x19 _x30', '1+0x27 _x30' ] },
	NatsWalKept => { '_wal_kept_bytes{datname="%s"}' => [ '0+0x20 3000000000+0x20', '0+0x28 3000000000+0x20' ] },
	NatsWalDiverted => { '_wal_diverted_total{datname="%s"}' => [ '0+0x27 1+0x5', '7+0x60' ] },
	NatsOutboxDead => { '_outbox_dead{datname="%s"}' => [ '0+0x29 1+0x5', '0+0x60' ] });

sub test_alerts
{
	return promtool('test rules',
		{ rule_files => ["$DOC/nats_publish_alerts.yaml"], evaluation_interval => '1m', tests => [@_] });
}

sub alert_test
{
	my ($name, $input, @firing) = @_;
	return { interval => '1m', input_series => $input, promql_expr_test => [ { eval_time => '30m',
		expr => "count by (datname) (ALERTS{alertname=\"$name\",alertstate=\"firing\"})",
		exp_samples => [ map { { labels => $_, value => 1 } } @firing ] } ] };
}

my @tests;
foreach my $name (sort keys %series)
{
	my @input;
	foreach my $metric (sort keys %{ $series{$name} })
	{
		push @input, { series => 'nats_publish' . sprintf($metric, $_->[0]), values => $series{$name}{$metric}[ $_->[1] ] }
			foreach [ 'bad', 0 ], [ 'good', 1 ];
	}
	push @tests, alert_test($name, \@input, '{datname="bad"}');
}
push @tests, alert_test('NatsPublishUnseen', [], '{}'),
	alert_test('NatsPublishUnseen', [ { series => 'nats_publish_outbox_backlog{datname="good"}', values => '0+0x60' } ]);

is_deeply([ sort map { $_->{alert} } @rules ], [ sort 'NatsPublishUnseen', keys %series ], 'there is a test of each alert');
is(test_alerts(@tests), '', 'each fires when it should, and not when it should not');
isnt(test_alerts(alert_test('NatsOutboxDead', [], '{datname="bad"}')), '', 'promtool would tell');

# ---- The report

# What it prints, of a psql that ends at the first error.
sub report
{
	my ($what, @options) = @_;
	my ($result, $output, $error) = $node->psql('postgres', "\\i $DOC/nats_publish_report.psql", on_error_stop => 1,
		extra_params => \@options);
	is("$result $error", '0 ', "$what: the report runs without an error");
	like($output, qr/^== \Q$_\E/m, "$what: $_")
		foreach qw(nats_check nats_publish_stats nats_publish_latency nats_publish_activity nats_relay nats_wal_relay), 'The latest errors';
	like($output, qr/^== nats_publish_stats.*^postgres\|async\|11\|11\|0\|0/ms, "$what: statistics");
	like($output, qr/^== nats_publish_latency.*^postgres\|on_commit\|commit_wait\|1\|[\d.]+\|[\d.]+\|[\d.]+\|[\d.]+$/ms, "$what: latency");
	like($output, qr/^== nats_publish_activity.*^\d+\|billing\|\w+\|connected\|/ms, "$what: activity");
	like($output, qr/^== nats_relay.*^postgres\|paused\|.*^dead\|1\|.*^retrying\|2\|.*^waiting\|4\|/ms, "$what: relay and outbox");
	like($output, qr/^== nats_wal_relay.*^postgres\|paused\|\|nats_publish_\d+\|reserved\|[^|]+\|[^|]+\|[^|]+\|0\|0\|7\|1\|0\|/ms, "$what: the WAL");
	my ($errors) = $output =~ /^== The latest errors[^\n]*\n(.*)/ms;
	like($errors, qr/^20[^|]*\|postgres sync\|.*nobody\.takes/m, "$what: an error of a backend");
	like($errors, qr/^20[^|]*\|dead message \d+\|54000: .*max_payload/m, "$what: and of a message");
	cmp_ok(scalar(split /\n/, $errors), '<=', 10, "$what: no more than ten");
	return $output;
}

my ($without) = report('without subject') =~ /^(== nats_check.*?)^== /ms;
my ($with) = report('with subject', '-v', 'subject=nobody.takes') =~ /^(== nats_check.*?)^== /ms;
like($without, qr/^all others\|ok\|.*\bconnection\b/m, 'nats_check() without a subject');
# servers before 2.11 can't be asked whether another account's stream takes it
my $none = qr/^stream\|(failed|unknown)\|.*no stream.*nats_create_stream/mi;
like($with, $none, 'and with one, which no stream takes');
unlike($without, $none, 'as it would not say of none');

$session->value('SELECT nats_relay_resume()');
done_testing();
