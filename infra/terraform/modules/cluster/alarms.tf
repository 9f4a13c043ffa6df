# Three alarms for what Prometheus cannot see when it is cut off itself; infra/prometheus has the others.

locals {
  alarms = {
    no_gateway = {
      description = "No gateway is behind the load balancer: nobody is served."
      namespace   = "AWS/NetworkELB"
      metric      = "HealthyHostCount"
      dimensions  = module.entrance.dimensions
      statistic   = "Minimum"
      comparison  = "LessThanThreshold"
      threshold   = 1
      missing     = "breaching"
    }
    sick_gateway = {
      description = "A gateway does not answer the load balancer."
      namespace   = "AWS/NetworkELB"
      metric      = "UnHealthyHostCount"
      dimensions  = module.entrance.dimensions
      statistic   = "Maximum"
      comparison  = "GreaterThanThreshold"
      threshold   = 0
      missing     = "notBreaching"
    }
    workers_wanted = {
      description = "The load asks for more workers than the group may have."
      namespace   = local.namespace
      metric      = "DesiredWorkers"
      dimensions  = { Group = module.workers.group }
      statistic   = "Maximum"
      comparison  = "GreaterThanThreshold"
      threshold   = var.workers.maximum
      missing     = "notBreaching"
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each            = local.alarms
  alarm_name          = "${var.name}-${replace(each.key, "_", "-")}"
  alarm_description   = each.value.description
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = each.value.statistic
  comparison_operator = each.value.comparison
  threshold           = each.value.threshold
  period              = 60
  evaluation_periods  = 5
  treat_missing_data  = each.value.missing
  alarm_actions       = var.alarm_topics
  ok_actions          = var.alarm_topics
}
