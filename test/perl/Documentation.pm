
=pod

=head1 NAME

Documentation - README.md and the pages of doc/, as a test reads them

=head1 SYNOPSIS

  use Documentation;

  my @examples = map { blocks($_, 'sql') } pages();    # { page, language, text, output, name }
  my $text = prose('doc/guide.md');                    # without its blocks

=cut

package Documentation;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use FindBin;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(anchors blocks checks page pages prose $TOP);

our $TOP = "$FindBin::RealBin/../..";

# Their names in the order in which one reads them: the examples of each may use what those before it have made.
sub pages
{
	return ('README.md', map { "doc/$_.md" } qw(guide reference connections security operations wal internals coming_from testing));
}

sub page { my ($name) = @_; return slurp_file("$TOP/$name"); }

# The blocks of a language. The output of one is the block of the language "text" right behind it, if there is one.
sub blocks
{
	my ($name, $language) = @_;
	my @blocks;
	my $text = page($name);
	while ($text =~ /^```(\w*)\n(.*?)^```$/msg)
	{
		my ($found, $content) = ($1, $2);
		if ($found eq 'text' && @blocks) { $blocks[-1]{output} = $content; next; }
		my ($first) = $content =~ /(.*)/;
		push @blocks, { page => $name, language => $found, text => $content, name => "$name: $first" };
	}
	return grep { $_->{language} eq $language } @blocks;
}

# What is not in a block, where # begins a heading and ]( a link.
sub prose
{
	my ($name) = @_;
	return page($name) =~ s/^```.*?^```$//msgr;
}

# The rows of nats_check() for a subject
sub checks
{
	my ($table) = page('doc/operations.md') =~ /^\| check \| \|\n\|.*\n((?:\|.*\n)+)/m;
	return map { /`(\w+)`/g } $table =~ /^\| ([^|]*) \|/mg;
}

# The anchors of a page's headings, as GitHub makes them.
sub anchors
{
	my ($name) = @_;
	my (%seen, @anchors);
	foreach my $heading (prose($name) =~ /^#+ +(.*?) *$/mg)
	{
		my $anchor = lc($heading =~ s/\[([^]]*)\]\([^)]*\)/$1/gr =~ s/[^\w\- ]//gr);
		$anchor =~ tr/ /-/;
		push @anchors, $seen{$anchor} ? "$anchor-$seen{$anchor}" : $anchor;
		$seen{$anchor}++;
	}
	return @anchors;
}

1;
