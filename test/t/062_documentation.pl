# What the documentation lists is what there is, and what it refers to is there: settings, functions and their arguments, columns of
# views, SQLSTATEs, links and anchors, tests, targets of make.

use strict;
use warnings FATAL => 'all';

use Encode qw(decode_utf8);
use File::Basename qw(dirname);
use File::Spec;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Documentation;

my @ALL = (pages(), qw(CHANGELOG.md CONTRIBUTING.md SECURITY.md src/README.md test/bench/README.md));
my $reference = page('doc/reference.md');
my $everything = join "\n", map { page($_) } @ALL;

my $node = PostgreSQL::Test::Cluster->new('documentation');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'nats_publish'");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION nats_publish');

sub lines { my ($sql) = @_; return split /\n/, $node->safe_psql('postgres', $sql); }

# Two lists without an order, each of which may have a thing once only
sub same { my ($got, $expected, $what) = @_; return is_deeply([ sort @$got ], [ sort @$expected ], $what); }

# ---- Settings

{
	my (%documented, %existing);
	$documented{$1} = [ $2, $3 ] while $reference =~ /^\| `(nats_publish\.\w+)` \| (.*?) \| (.*?) \|/mg;
	foreach my $row (lines(q(SELECT name || '|' || boot_val || '|' || coalesce(unit, '') || '|' || context FROM pg_settings WHERE name LIKE 'nats_publish.%')))
	{
		my ($name, $value, $unit, $context) = split /\|/, $row;
		$existing{$name} = [ shown($name), $context ];
	}
	same([ keys %documented ], [ keys %existing ], 'the table of settings is complete');
	foreach my $name (sort keys %existing)
	{
		is($documented{$name}[0], $existing{$name}[0] eq '' ? '*empty*' : "`$existing{$name}[0]`", "default of $name");
		like($documented{$name}[1], { superuser => qr/^superuser/, user => qr/^user/, sighup => qr/^configuration file/ }->{$existing{$name}[1]},
			"who sets $name");
	}
	my %named = map { $_ => 1 } map { page($_) =~ /\b(nats_publish\.[a-z_]+)\b/g } @ALL;
	delete @named{qw(nats_publish.insert nats_publish.commit nats_publish.control nats_publish.c)};
	is_deeply([ grep { !$existing{$_} } sort keys %named ], [], 'each setting that is named is one');
}

# With its unit, as SHOW has it
sub shown { my ($name) = @_; return $node->safe_psql('postgres', "SHOW $name"); }

# ---- Functions

{
	my %existing;
	foreach my $row (lines(<<'END'))
SELECT proname || '|' || coalesce((SELECT string_agg(name || ' ' || format_type(type, NULL), ', ' ORDER BY n)
	FROM unnest(proargnames, coalesce(proallargtypes, proargtypes::oid[]), proargmodes) WITH ORDINALITY AS a (name, type, mode, n) WHERE mode IS NULL OR mode = 'i'), '')
FROM pg_proc JOIN pg_depend ON objid = pg_proc.oid
WHERE classid = 'pg_proc'::regclass AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'nats_publish')
END
	{
		my ($name, $arguments) = split /\|/, $row, -1;
		$existing{$name}{$arguments} = 1;
	}
	my %documented;
	$documented{$1} = $2 while $reference =~ /^\| `(nats_\w+)\((.*?)\)`/mg;
	same([ keys %documented ], [ keys %existing ], 'the tables of functions are complete');
	foreach my $name (sort keys %documented)
	{
		my $arguments = $documented{$name} =~ s/ DEFAULT [^,)]+//gr =~ s/\btimestamptz\b/timestamp with time zone/gr;
		next if $arguments =~ /…/;
		my @forms = $arguments =~ / P\b/ ? map { $arguments =~ s/ P\b/ $_/r } qw(text bytea json jsonb) : ($arguments);
		same([ @forms ], [ keys %{ $existing{$name} } ], "the arguments of $name");
	}
	my %called = map { $_ => 1 } $everything =~ /\b(nats_\w+)\(/g;
	is_deeply([ grep { !$existing{$_} } sort keys %called ], [], 'each function that is called is one');
}

# ---- Views and tables

{
	my %columns;
	foreach my $row (lines(<<'END'))
SELECT relname || '|' || attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0
WHERE pg_class.oid IN (SELECT objid FROM pg_depend WHERE classid = 'pg_class'::regclass AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'nats_publish'))
	AND relkind IN ('r', 'v') AND NOT attisdropped
END
	{
		my ($relation, $column) = split /\|/, $row;
		$columns{$relation}{$column} = 1;
	}
	my @unnamed = grep { $everything !~ /`$_`|\b$_\b/ } sort keys %columns;
	is_deeply(\@unnamed, [], 'each view and table is named');
	my $found = 0;
	while ($everything =~ /^\| `(nats_\w+)` \| (.*)\|$/mg)
	{
		my ($relation, $text) = ($1, $2);
		my @lists = $text =~ /`([a-z_0-9]+(?: \([^)]*\))?, [^`]*)`/g;
		next unless $columns{$relation} && @lists;
		# what a list says of a column is in brackets
		my @named = map { split /, / } map { s/ \([^)]*\)//gr } @lists;
		same([ grep { /^[a-z]/ && !$columns{$relation}{$_} } @named ], [], "the columns of $relation that are listed");
		$found++;
	}
	cmp_ok($found, '>', 5, 'columns are listed');
}

same([ checks() ], [ lines(q(SELECT check_name FROM nats_check('a.b'))) ], 'the table of checks is complete');

# ---- SQLSTATEs

{
	my $codes = slurp_file($node->config_data('--sharedir') . '/errcodes.txt');
	my %code = map { /^(\w{5})\s+[EWS]\s+(ERRCODE_\w+)/ ? ($2 => $1) : () } split /\n/, $codes;
	my ($table) = $reference =~ /^## Errors\n(.*?)^\*\*What/ms;
	my %documented = map { $_ => 1 } $table =~ /\| (\w{5}) \|$/mg;
	my %raised = map { $code{$_} => 1 } slurp_file("$TOP/src/base/report.c") =~ /\b(ERRCODE_\w+)/g;
	cmp_ok(scalar(keys %documented), '>', 15, 'SQLSTATEs are listed');
	is_deeply([ grep { !$documented{$_} } sort keys %raised ], [], 'what can be raised is in the table of errors');
	my $source = join '', map { slurp_file($_) } glob("'$TOP/src/*/*.c'");
	my %used = map { ($code{$_} // '') => 1 } $source =~ /\b(ERRCODE_\w+)/g;
	is_deeply([ grep { !$used{$_} } sort keys %documented ], [], 'and what is there can be raised');
}

# ---- Links, tests, targets

my %anchors = map { my $page = $_; ($page => { map { $_ => 1 } anchors($page) }) } @ALL;

# The path from the top of what a page's link names
sub target
{
	my ($page, $link) = @_;
	my @path;
	foreach my $part (split m{/}, dirname($page) . "/$link")
	{
		if ($part eq '..') { pop @path; }
		elsif ($part ne '.' && $part ne '') { push @path, $part; }
	}
	return join '/', @path;
}

foreach my $page (@ALL)
{
	my @broken;
	foreach my $link (prose($page) =~ /\]\(([^)\s]+)\)/g)
	{
		next if $link =~ m{^https?://[\w.-]+(?:/\S*)?$};
		my ($file, $anchor) = $link =~ /^([^#]*)(?:#(.+))?$/ or push(@broken, $link), next;
		my $name = $file eq '' ? $page : target($page, $file);
		push @broken, $link unless -e "$TOP/$name" && (!defined $anchor || $anchors{$name}{$anchor});
	}
	is_deeply(\@broken, [], "$page: links lead somewhere");
}

# Other arrows come from another font, which is wider, and what stands behind them moves.
foreach my $page (@ALL)
{
	my $blocks = join '', decode_utf8(page($page)) =~ /^```.*?^```$/msg;
	is_deeply([ $blocks =~ /[^\x{00}-\x{ff}\x{2013}\x{2014}\x{2026}\x{2500}-\x{257f}\x{25b2}\x{25ba}\x{25bc}\x{25c4}]/g ], [], "$page: its pictures have characters of every font of fixed width");
}

my @tests = $everything =~ m{`(t/\d{3})`}g;
is_deeply([ grep { !(() = glob("'$TOP/test/'$_" . '_*.pl')) } @tests ], [], 'tests in Perl that are named');
is_deeply([ grep { !-e "$TOP/test/$_.sql" } $everything =~ m{`(sql/[a-z]\w+)`}g ], [], 'regress tests that are named');
is_deeply([ grep { !-e "$TOP/test/t/$_.pl" } page('CONTRIBUTING.md') =~ /\b(\d{3}_\w+)/g ], [], 'tests that CONTRIBUTING names');

my %target = map { $_ => 1 } map { split } slurp_file("$TOP/Makefile") =~ /^([\w -]+):(?!=)/mg;
$target{$_} = 1 foreach qw(install uninstall installcheck);
is_deeply([ grep { !$target{$_} } map { s/^.* //r } $everything =~ /`((?:sudo )?make [a-z][\w-]*)/g ], [], 'targets of make that are named');

done_testing();
